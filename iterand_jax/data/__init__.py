"""Where examples and labels come from, and how they become batches.

`datasets` lists what there is, `sources` reads it, `feeds` makes the batches of a run.
`augment` crops and flips images on the device; `text` numbers words for `reviews`, the
feed of texts; `imagenet` streams batches, which processes decode and crop by `jpeg`.
`prepare` makes datasets from official `archives` or, by `imagenet_files`, from class
folders.
"""
