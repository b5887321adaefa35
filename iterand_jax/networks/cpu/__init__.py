"""Convolution, batch normalization and max-pooling in forms that are fast on CPUs.

Each computes what Flax's own does, to rounding, and is used by the networks in its
place; on other platforms they are Flax's.

What evaluates a network is the same program whatever process traces it, so one that is
exported on a CPU is right and fast on a GPU and the reverse: a convolution of images
smaller than its kernel has two forms, of which lowering takes the platform's
(`jax.lax.platform_dependent`), and all else is alike forward.

What trains it is chosen when it is traced, from the process's default backend: the
gradient of a kernel and batch normalization with the statistics of a batch. Lowering
could choose these too, but both forms are traced first. The gradient is a
`jax.custom_vjp`, which would then forbid `jax.jvp` on GPUs and TPUs as well; under
`jax.grad` each form's residuals would become outputs of the other; and every training
program would be traced twice, for nothing, as it always runs where it was traced.
"""
