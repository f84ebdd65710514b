"""The web page and HTTP service for trained bundles, started by `genretree serve`."""
