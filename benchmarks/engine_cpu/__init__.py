"""The engine on a CPU beside llama.cpp, OpenVINO and transformers, each in a process of its own, in turns."""
