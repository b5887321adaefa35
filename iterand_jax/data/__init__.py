"""Where images and labels come from, and how they are varied.

`sources` reads datasets, `prepare` makes them from official `archives`, `augment` crops
and flips their images on the device.
"""
