"""Formats of programs that evaluate FLAME themselves: they take FLAME's codes, of their own version."""

from vht_jax.results.export.format import Format, Option

# Of every format here; `consumers.for_consumer` takes them.
_SHARED = (
  Option("flame_model_path", "FLAME's file of the program that reads the codes: they are fitted to it anew"),
  Option("flame_release", "which FLAME was tracked, if its file's name does not say it", str, ("2020", "2023")),
)
_HERE = "vht_jax.results.export.flame_family"


def _format(
  name: str, help: str, function: str, release: str, *options: str, pictures: bool = False, refits: bool = False
) -> Format:
  return Format(
    name, help, f"{_HERE}.{function}", flame=True, release=release, refits=refits, folder=True, pictures=pictures,
    options=(*options, *(o.name for o in _SHARED)),
  )  # fmt: skip


FORMATS: tuple[Format, ...] = (
  _format(
    "gaussian-avatars", "dataset of GaussianAvatars, its forks and LAM, in VHAP's layout",
    "gaussian_avatars:to_gaussian_avatars", "2023", "motion", "images",
  ),
  _format("vhap", "tracked_flame_params of VHAP, for its viewers and for driving avatars", "vhap:to_vhap", "2023"),
  _format(
    "metrical", "metrical-tracker's .frame files: INSTA, FlashAvatar, GaussianBlendshapes, RGBAvatar",
    "metrical:to_metrical", "2020", "neck", "images",
  ),
  _format(
    "imavatar", "flame_params.json: IMavatar, PointAvatar, MonoGaussianAvatar, SplattingAvatar, FateAvatar",
    "imavatar:to_imavatar", "2020", "images",
  ),
  _format("nha", "dataset of Neural Head Avatars, and VHT's own result", "nha:to_nha", "2020", "images"),
  _format(
    "nersemble", "tracking and calibration as the NeRSemble benchmark publishes them", "nersemble:to_nersemble", "2023"
  ),
  _format(
    "cap4d", "CAP4D's fit.npz with its reference images", "cap4d:to_cap4d", "2023 without jaw", "images", refits=True
  ),
  _format(
    "gagavatar", "driver of GAGAvatar: optim.pkl and, with --images, its LMDB", "gagavatar:to_gagavatar", "2020",
    "images",
  ),
  _format("flame-arrays", "expressions.npy and poses.npy of speech-to-face code", "arrays:to_flame_arrays", "2020"),
)  # fmt: skip
OPTIONS: tuple[Option, ...] = (
  Option(
    "motion", "gaussian-avatars: what moves, the camera about a head at rest (one still camera breaks its training "
    "without a word) or, as VHAP writes it, the head", str, ("camera", "head"),
  ),
  Option(
    "neck", "metrical: which has no neck, so its rotation goes into the camera (shoulders turn along) or is left out "
    "(exact if it was tracked without)", str, ("fold", "drop"),
  ),
  *_SHARED,
)  # fmt: skip
