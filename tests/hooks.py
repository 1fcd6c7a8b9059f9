"""What schemathesis cannot know from the OpenAPI document: what a picture looks like."""

import base64

import schemathesis
from hypothesis import strategies as st

from tests.pictures import encoded, seven

KINDS = ("png", "jpeg", "webp")

for kind in KINDS:
    schemathesis.openapi.media_type(f"image/{kind}", st.just(encoded(seven(), kind.upper())))
PICTURE = base64.b64encode(encoded(seven())).decode()
schemathesis.openapi.format("data-url", st.just(f"data:image/png;base64,{PICTURE}"))
