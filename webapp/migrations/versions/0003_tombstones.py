"""Doubt, review, idempotency keys and label revisions; tombstones; an index by visitor."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

ID = sa.Uuid().with_variant(sa.String(36), "sqlite")


def upgrade() -> None:
    """Add columns, indexes and the table of tombstones."""
    op.add_column("predictions", sa.Column("doubt", sa.Text))
    op.execute("UPDATE predictions SET doubt = 'low_confidence' WHERE uncertain")
    op.add_column("predictions", sa.Column("review", sa.Text))
    op.add_column("predictions", sa.Column("idempotency_key", sa.Text))
    op.create_index(
        "idempotency_key",
        "predictions",
        ["idempotency_key"],
        unique=True,
        postgresql_where=sa.text("idempotency_key IS NOT NULL"),
        sqlite_where=sa.text("idempotency_key IS NOT NULL"),
    )
    op.add_column(
        "predictions",
        sa.Column("label_revision", sa.Integer, nullable=False, server_default="0"),
    )
    op.execute("UPDATE predictions SET label_revision = 1 WHERE labelled_at IS NOT NULL")
    op.create_index("visitor", "predictions", ["visitor", "id"])
    op.create_table(
        "tombstones",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("prediction_id", ID, index=True),
        sa.Column("before", ID),
        sa.Column("visitor", sa.Text),
    )
