"""CPU implementations of convolution and batch normalization.

Each equals Flax's own up to rounding and replaces it in the networks; on other
platforms Flax's own is used, or `networks.batch_norm`'s.

The forward pass is the same program whichever platform traces it, so a program exported
on a CPU is correct and fast on a GPU, and vice versa: a convolution of images smaller
than its kernel has two implementations, one of which is selected at lowering
(`jax.lax.platform_dependent`); everything else is the same on all platforms.

Training code is selected at tracing, by the process's default backend: the gradient of
a kernel, and batch normalization with batch statistics. Selecting it at lowering is
possible, but would trace both implementations. The gradient is a `jax.custom_vjp`,
which would then forbid `jax.jvp` of a convolution on GPUs and TPUs as well; under
`jax.grad` the residuals of each implementation would become outputs of the other; and
every training program would be traced twice without a benefit, as it runs where it was
traced.
"""
