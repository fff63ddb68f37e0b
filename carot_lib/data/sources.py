"""Where the images of a profile come from: the kinds of `data:` in params.yaml."""

from typing import Annotated

from pydantic import Field, RootModel

from carot_lib.data.folders import FoldersParams
from carot_lib.data.imagenet import ImagenetParams
from carot_lib.data.miniature import PictogramParams
from carot_lib.data.shards import ShardsParams

DataParams = Annotated[
    PictogramParams | ImagenetParams | FoldersParams | ShardsParams, Field(discriminator="kind")
]


class Data(RootModel[DataParams]):
    """The branch `data:` of a profile, read by itself."""
