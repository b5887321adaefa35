"""Where examples and labels come from, and how they become batches.

`datasets` is the registry, `sources` reads a dataset, and a feed makes the batches of a
run: `feeds` says what a feed is, `resident_feed` has the data on every device,
`imagenet_feed` streams it, and `reviews` pads texts to a few lengths. `augment` crops
and flips images on the device; `text` tokenizes for `reviews`; `imagenet` streams
batches, which worker processes decode and crop with `jpeg`. `own` makes custom datasets
of arrays, .npz files and image folders. `prepare` makes datasets from official
`archives` or, with `imagenet_files`, from class folders.
"""
