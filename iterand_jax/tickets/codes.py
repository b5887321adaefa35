"""Codes of bits and of numbers, close to their entropy, that any inflate reads.

Deflate (RFC 1951) without matches is a Huffman code of bytes. Of one bit a byte it is
far from the entropy, so bits are put into bytes first, several or a distance at a time:

    1 to 8   so many bits are a byte, the first the highest bit of the byte
    9        how many zeros lie before each one
    10       how many ones lie before each zero
    11       which places the ones of each group have (`groups`): of masks alone

is the first byte of a code of bits; the code takes the form that is smallest. After 9
and 10 a code of numbers follows, whose own first byte is

    1 to 4   the bytes of a number: the lowest bytes of all numbers, the next ones, ...
    0        a number is the sum of bytes, of which all but its last are 255

and the rest is raw deflate. Distances of random bits are geometric, for which 255s cost
nothing. With random masks the code has at most 1 % more bits than the entropy for
sparsities from 0.02 to 0.98.

Zeros may follow a code of bits. That of a mask is filled with them to a byte for
`BITS_OF_A_BYTE`, so that a small file cannot claim to hold a large network.
"""

import zlib

import numpy as np

from iterand_jax.tickets import groups

_WINDOW = -15  # raw deflate, without header and checksum
BITS_OF_A_BYTE = 64
MOST = 2**31 - 1  # weights of a leaf
BEFORE_ONES, BEFORE_ZEROS, IN_GROUPS = 9, 10, 11


def encode_bits(bits: np.ndarray) -> np.ndarray:
    """The code of booleans (n,), uint8.

    >>> code = encode_bits(np.arange(100) == 40)
    >>> code.size, decode_bits(code, 100).nonzero()[0].tolist()
    (5, [40])
    """
    bits = np.asarray(bits, bool).ravel()
    codes = [bytes([width]) + _blocks(bits, width) for width in (8, 7, 6, 5)]
    kind, fewer = BEFORE_ONES, bits
    if 2 * np.count_nonzero(bits) > bits.size:
        kind, fewer = BEFORE_ZEROS, ~bits
    gaps = np.diff(np.flatnonzero(fewer), prepend=-1) - 1
    codes.append(bytes([kind]) + encode(gaps).tobytes())
    return np.frombuffer(min(codes, key=len), np.uint8)


def encode_mask(mask: np.ndarray) -> np.ndarray:
    """The `filled` code of booleans, in groups where these have equally many ones.

    >>> one_of_two = np.random.default_rng(0).random(1000) < 0.5
    >>> mask = np.stack([one_of_two, ~one_of_two])
    >>> code = encode_mask(mask)
    >>> int(code[0]), code.size < 0.6 * encode_bits(mask).size
    (11, True)
    """
    code, found = filled(encode_bits(mask), mask.size), groups.found_in(mask)
    if found is None:
        return code
    numbers = encode(groups.numbers_of(mask, found)).tobytes()
    own = np.frombuffer(found.header(IN_GROUPS) + numbers, np.uint8)
    return min(code, filled(own, mask.size), key=len)


def filled(code: np.ndarray, count: int) -> np.ndarray:
    """A code of so many bits, with zeros to a byte for `BITS_OF_A_BYTE` of them."""
    missing = -(-count // BITS_OF_A_BYTE) - code.size
    return np.pad(code, (0, max(0, missing)))


def decode_bits(code: np.ndarray, count: int) -> np.ndarray:
    """The booleans (count,), the inverse of `encode_bits`.

    Raises:
      ValueError: a code that this many bits do not have.
    """
    kind = int(code.flat[0]) if code.size and code.dtype == np.uint8 else 0
    if kind in (BEFORE_ONES, BEFORE_ZEROS):
        bits = np.zeros(count, bool)
        bits[places(decode(code[1:], count), count)] = True
        return ~bits if kind == BEFORE_ZEROS else bits
    if kind == IN_GROUPS:
        most = groups.most_numbers(code, count)
        return groups.bits_of(code, decode(code[groups.HEADER :], most), count)
    if not 1 <= kind <= 8:
        raise ValueError("a code of bits does not start with its form, 1 to 11")
    blocks = -(-count // kind)
    content = _inflated(code[1:], blocks, f"{count} bits")
    if len(content) != blocks:
        raise ValueError(f"a code does not hold {count} bits")
    packed = np.frombuffer(content, np.uint8)
    if kind == 8:
        return np.unpackbits(packed, count=count).view(bool)
    of_a_byte = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    bits = of_a_byte[:, :kind].take(packed, axis=0)  # faster than unpacking each
    return bits.ravel()[:count].view(bool)


def encode(numbers: np.ndarray) -> np.ndarray:
    """The code of nonnegative integers below 2**31, uint8.

    >>> encode(np.array([3, 0, 600])).tolist()[0], decode(encode(np.arange(3))).tolist()
    (0, [0, 1, 2])
    """
    numbers = np.asarray(numbers, "<u4")
    width = max(1, -(-int(numbers.max(initial=0)).bit_length() // 8))
    planes = numbers.view(np.uint8).reshape(-1, 4).T[:width]
    code = bytes([width]) + _deflated(planes.tobytes(), zlib.Z_RLE)
    before = (numbers // 255).astype(np.int64)
    total = int(before.sum()) + numbers.size
    if total <= 4 * numbers.size:  # what `decode` inflates at most
        summed = np.full(total, 255, np.uint8)
        summed[np.cumsum(before + 1) - 1] = numbers % 255
        in_sums = b"\0" + _deflated(summed.tobytes(), zlib.Z_HUFFMAN_ONLY)
        code = min(code, in_sums, key=len)
    return np.frombuffer(code, np.uint8)


def decode(code: np.ndarray, most: int = MOST) -> np.ndarray:
    """The integers (n,), int32: the inverse of `encode`.

    Raises:
      ValueError: a code that no numbers have, or of more numbers than `most`.
    """
    width = int(code.flat[0]) if code.size and code.dtype == np.uint8 else -1
    if not 0 <= width <= 4:
        raise ValueError("a code of numbers does not start with their bytes, 0 to 4")
    limit, what = (width or 4) * most, f"integers of at most {most}"
    content = np.frombuffer(_inflated(code[1:], limit, what), np.uint8)
    if width == 0:
        return _summed(content, most)
    if content.size % width:
        raise ValueError(f"a code does not hold {what}")
    numbers = np.zeros((content.size // width, 4), np.uint8)
    numbers[:, :width] = content.reshape(width, -1).T
    return numbers.view("<i4").ravel()


def _summed(content: np.ndarray, most: int) -> np.ndarray:
    """The integers whose summands are bytes."""
    ends = np.flatnonzero(content != 255)
    if ends.size > most or (content.size and content[-1] == 255):
        raise ValueError(f"a code does not hold integers of at most {most}")
    last = content[ends].astype(np.int32)
    numbers = np.diff(ends, prepend=-1)
    numbers -= 1
    numbers *= 255
    return numbers.astype(np.int32) + last


def places(gaps: np.ndarray, count: int) -> np.ndarray:
    """The places of bits, of which so many others lie before each.

    Raises:
      ValueError: a negative number, or a place past the last.
    """
    places = gaps + np.int64(1)
    np.cumsum(places, out=places)
    places -= 1
    if gaps.min(initial=0) < 0 or places.max(initial=0) >= max(count, 1):
        raise ValueError(f"a code leads past the last of {count} bits")
    return places


def _blocks(bits: np.ndarray, width: int) -> bytes:
    """Bits, so many to a byte, deflated."""
    padded = np.zeros(-(-bits.size // width) * width, bool)
    padded[: bits.size] = bits
    blocks = np.packbits(padded.reshape(-1, width), axis=1)
    return _deflated(blocks.tobytes(), zlib.Z_HUFFMAN_ONLY)


def _deflated(content: bytes, strategy: int) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, _WINDOW, 9, strategy)
    return deflate.compress(content) + deflate.flush()


def _inflated(code: np.ndarray, most: int, what: str) -> bytes:
    """The content of a deflated code, of at most this many bytes."""
    inflate = zlib.decompressobj(_WINDOW)
    try:
        content = inflate.decompress(code.tobytes(), most + 1)
    except zlib.error as error:
        raise ValueError(f"a code is damaged: {error}") from error
    if len(content) > most or not inflate.eof or any(inflate.unused_data):
        raise ValueError(f"a code does not hold {what}")
    return content
