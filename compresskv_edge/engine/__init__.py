"""The native library and the machine that it runs on."""
