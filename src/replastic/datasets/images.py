"""Any labelled images: a folder of Parquet files, a folder of image files, or a data set of the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass

from replastic.data.image_provider import ImageSet, Layout
from replastic.data.provider import register
from replastic.errors import UserError
from replastic.options import option


@register("images", reference="https://huggingface.co/docs/datasets/image_dataset")
@dataclass(kw_only=True, frozen=True)
class Images(ImageSet):
    """Labelled images of one size from any folder or Hub data set, with columns and splits by name."""

    image: str = option("", help="column of the images; empty: image or img")
    label: str = option("", help="column of the labels, whole numbers from 0; empty: label or fine_label")
    train_split: str = option("", help="split to train on; empty: train")
    test_split: str = option("", help="split to test on; empty: test, or validation where test has no labels")
    config: str = option("", help="configuration of a Hub set that has several")
    channels: int = option(3, help="1 makes every image grey, 3 makes every image RGB", choices=(1, 3))

    def validate(self) -> None:
        """There must be a source, and two splits."""
        if not self.source:
            raise UserError("images needs a folder or a Hub name: images:source=FOLDER")
        if self.train_split and self.train_split == self.test_split:
            raise UserError(f"images: train_split and test_split must differ, got {self.train_split!r} for both")

    def layout(self) -> Layout:
        """As the fields say; what is empty is looked for under the common names."""
        usual = Layout()
        return Layout(
            image=(self.image,) if self.image else usual.image,
            label=(self.label,) if self.label else usual.label,
            train=(self.train_split,) if self.train_split else usual.train,
            test=(self.test_split,) if self.test_split else usual.test,
            channels=self.channels,
            config=self.config,
        )
