"""live -> ready -> drain: what the process is doing, shared by the health routes, the middleware and the server."""


class Lifecycle:
    """`draining` is set by SIGTERM: requests are still answered, but callers are told to go elsewhere."""

    def __init__(self) -> None:
        self.draining = False
