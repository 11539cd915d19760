"""`python -m animora_client` is the command `animora-client`."""

from animora_client.cli import main

main()
