"""Where images and labels come from: `sources` reads them, `prepare` makes them."""
