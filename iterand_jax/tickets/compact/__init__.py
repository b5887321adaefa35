"""A ticket as a smaller dense network of the same logits: without its dead channels.

`export --format=compact` calls it. It imports networks, tickets and what these do.

    wiring      which layers read and write which channels, for each family of networks
    channels    which channels the logits need, and which are constant
    removal     the ticket of the network that is left
    costs       its parameters and multiply-adds
"""
