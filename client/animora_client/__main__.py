"""`python -m animora_client` is the command `animora`."""

from animora_client.cli import main

main()
