from rayraft.cli import app

app()
