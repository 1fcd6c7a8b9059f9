"""Who labelled a prediction, and when; an index of labelled rows, for filters and statistics."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns, empty where a label is older than they are."""
    op.add_column("predictions", sa.Column("labelled_by", sa.Text))
    op.add_column("predictions", sa.Column("labelled_at", sa.DateTime(timezone=True)))
    op.create_index(
        "labelled",
        "predictions",
        ["id", "model_version", "predicted_digit", "true_digit"],
        postgresql_where=sa.text("true_digit IS NOT NULL"),
        sqlite_where=sa.text("true_digit IS NOT NULL"),
    )
