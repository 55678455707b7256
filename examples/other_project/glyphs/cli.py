"""The command `glyphs`: a LightningCLI whose configs name classes of this project and of litlens."""

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import litlens


class GlyphsCLI(LightningCLI):
    """Sets the sizes of a model from the data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what litlens' own command links."""
        litlens.link_data_to_model(parser)


def main(args: list[str] | None = None) -> None:
    """Run `fit`, `validate`, `test` or `predict`."""
    GlyphsCLI(subclass_mode_model=True, subclass_mode_data=True, auto_configure_optimizers=False, args=args)
