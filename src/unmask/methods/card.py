"""What a method is, in the terms that all of them share."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class Card:
    """A method with its paper's defaults as a row of the unified view of masked image modelling (MaskDistill,
    Peng et al., TMLR 2023, arXiv 2210.10615): a loss compares what a head makes of a student's features of
    the corrupted image with what a normalisation makes of a target.

    Attributes:
        title: of the method, as its authors write it.
        target: what is predicted, and what network says it.
        normalisation: what is done to the target.
        student: what the encoder sees of the hidden patches, and which encoders are possible.
        head: from the encoder's features to the prediction.
        loss: and the patches that it is taken over.
        masking: and the share that is hidden.
    """

    title: str
    target: str
    normalisation: str
    student: str
    head: str
    loss: str
    masking: str

    def __post_init__(self) -> None:
        empty = [name for name, text in asdict(self).items() if not text.strip()]
        if empty:
            raise ValueError(f"a card says something about everything; {', '.join(empty)} is empty")
