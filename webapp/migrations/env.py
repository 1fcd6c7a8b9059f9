"""Alembic's entry: brings the schema up to date on the connection that `Storage` hands in."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
