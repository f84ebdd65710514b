"""A page and an interface over HTTP for trained bundles: `genretree serve`."""
