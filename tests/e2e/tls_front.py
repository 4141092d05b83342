"""A TLS server for tests: `tls_front.py PORT CERTIFICATE KEY PIDFILE`; SIGHUP has it load the files again."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
from pathlib import Path


async def main(port: int, certificate: str, key: str, pidfile: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, context.load_cert_chain, certificate, key)

    async def close(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", port, ssl=context)
    pidfile.write_text(str(os.getpid()))
    await server.serve_forever()


asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])))
