"""llama.cpp as a program: `python -m vlinders_worker.engines.llama_server AGENT_PID OPTIONS`.

It is the C++ server inside the `xllamacpp` wheel, with its own HTTP front; Python only sets it up
and then waits. `OPTIONS` is JSON in the shape of `Options`.
"""

import signal
import sys

import msgspec

from vlinders_worker.engines.leash import die_with


class Options(msgspec.Struct, frozen=True):
    path: str
    name: str
    port: int
    parallel: int
    context_length: int
    context_total: int
    batch: int
    threads: int
    gpu_layers: int
    embeddings: bool


def main(agent: int, options: Options) -> None:
    die_with(agent)
    import xllamacpp  # heavy, and only this process needs it

    params = xllamacpp.CommonParams()
    params.model.path = options.path
    params.model_alias = {options.name}
    params.port = options.port
    params.n_parallel = options.parallel
    # One pool of context for all: a request takes what it needs, none has a share that lies idle.
    params.kv_unified = True
    params.n_ctx = options.context_total
    params.kv_unified_per_slot = options.context_length
    params.n_batch = params.n_ubatch = options.batch
    params.n_gpu_layers = options.gpu_layers
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options.threads
    # A stream holds a thread of the front; some more answer probes.
    params.n_threads_http = options.parallel + 4
    # No second copy of past prompts in memory: what stays in the slots is reused all the same.
    params.cache_ram_mib = 0
    params.embedding = options.embeddings
    params.ui = False
    params.cors_origins = ""
    params.verbosity = 1  # errors; warnings come with every request
    server = xllamacpp.Server(params)
    sys.stderr.write(f"listening at {server.listening_address}\n")
    while True:
        signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=Options))
