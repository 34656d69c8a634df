"""A PostgreSQL server of the tests' own, where one is installed; every store test runs on SQLite and on it."""

import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest

from harness.store import open_store


@pytest.fixture(scope="session")
def postgres():
    """Start a server that listens on a socket in a folder of its own; return the URL without a database."""
    if not shutil.which("pg_config"):
        pytest.skip("no PostgreSQL server is installed (pg_config is not on the path)")
    binaries = Path(subprocess.check_output(["pg_config", "--bindir"], text=True).strip())
    if not (binaries / "initdb").exists():
        pytest.skip(f"no PostgreSQL server is installed (no initdb in {binaries})")
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []  # the server refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))  # a socket's path must be short
    if user:
        shutil.chown(folder, "postgres")

    def call(*command):
        subprocess.run([*user, *command], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    try:
        call(binaries / "initdb", "-D", folder / "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync")
        options = f"-k {folder} -c listen_addresses='' -c fsync=off -c max_connections=50"
        call(binaries / "pg_ctl", "-D", folder / "data", "-l", folder / "log", "-o", options, "-w", "start")
        try:
            yield f"postgresql://postgres:secret@/{{database}}?host={folder}"
        finally:
            call(binaries / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """Name a database that does not exist yet (SQLite) or is empty (PostgreSQL)."""
    if request.param == "sqlite":
        return str(tmp_path / "benchmark.db")
    import psycopg

    template = request.getfixturevalue("postgres")
    name = f"test_{uuid.uuid4().hex}"
    server = template.format(database="postgres")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return template.format(database=name)


@pytest.fixture
def store(url):
    with open_store(url) as opened:
        yield opened
