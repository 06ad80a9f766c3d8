# Serves a GGUF model with llama.cpp's server until stdin ends: llama_server.py MODEL
# Prints its address once it answers. Wants xllamacpp, which carries llama.cpp.
import sys

import xllamacpp

params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_ctx = 2048
params.n_parallel = 2
params.hostnames = ["127.0.0.1"]
params.port = 0
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
