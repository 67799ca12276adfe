"""One module a library: `Peer(lesson, **options)` with `prepare`, `train` and `infer`."""
