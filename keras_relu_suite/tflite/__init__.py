"""Read, cut and bound .tflite files: `schema` (flatbuffers), `graph` (sites), `cutout` (probes), `bounds` (oracle)."""
