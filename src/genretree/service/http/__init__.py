"""The HTTP interface of a service: application, routes, uploads and the server."""
