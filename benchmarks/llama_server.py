"""llama.cpp's own server with continuous batching, as the package xllamacpp builds it: a peer of benchmarks/serve.py.

    python benchmarks/llama_server.py MODEL.gguf PORT PARALLEL

PARALLEL sequences are decoded together, each with a context of 1,024 tokens in one cache that they share, on two
threads: the same as `llama-server -m MODEL --port PORT --parallel PARALLEL --kv-unified -t 2`.
"""

import sys
import time


def main(model: str, port: str, parallel: str) -> None:
    """Serve until a signal."""
    from xllamacpp import CommonParams, Server

    settings = CommonParams()
    settings.model.path = model
    settings.port, settings.hostnames = int(port), ["127.0.0.1"]
    settings.n_parallel, settings.n_ctx, settings.kv_unified = int(parallel), 1024 * int(parallel), True
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 2
    server = Server(settings)
    print(server.listening_address, flush=True)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main(*sys.argv[1:])
