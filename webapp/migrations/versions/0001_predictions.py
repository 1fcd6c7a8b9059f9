"""Create the table of predictions, unless a release without Alembic created it."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the table."""
    if sa.inspect(op.get_bind()).has_table("predictions"):
        return
    op.create_table(
        "predictions",
        sa.Column("id", sa.Uuid().with_variant(sa.String(36), "sqlite"), primary_key=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("predicted_digit", sa.SmallInteger, nullable=False),
        sa.Column("confidence", sa.Double, nullable=False),
        sa.Column("probabilities", sa.JSON, nullable=False),
        sa.Column("uncertain", sa.Boolean, nullable=False),
        sa.Column("true_digit", sa.SmallInteger),
        sa.Column("model_version", sa.Text, nullable=False),
        sa.Column("pixels", sa.LargeBinary, nullable=False),
        sa.Column("visitor", sa.Text, nullable=False),
        sa.CheckConstraint("predicted_digit BETWEEN 0 AND 9", name="predicted_digit_is_digit"),
        sa.CheckConstraint("true_digit BETWEEN 0 AND 9", name="true_digit_is_digit"),
        sa.CheckConstraint("confidence BETWEEN 0 AND 1", name="confidence_is_probability"),
        sa.CheckConstraint("json_array_length(probabilities) = 10", name="ten_probabilities"),
        sa.CheckConstraint("length(pixels) = 784", name="pixels_28_by_28"),
    )
