"""Files that neither reader can read."""

import pytest
from astropy.io import fits

from astroclip.exceptions import PreparationError
from astroclip.preparation import read_images, read_spectra
from astroclip.tables import Flag


@pytest.mark.parametrize("read", [read_spectra, read_images])
def test_unreadable_paths(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"^path '.*none.fits' does not exist; check the"):
        read(tmp_path / "none.fits")
    with pytest.raises(IsADirectoryError, match=r"^path '.*' is a directory; expected a file\."):
        read(tmp_path)
    (tmp_path / "empty.fits").touch()
    (tmp_path / "notes.fits").write_text("no data")
    fits.HDUList([fits.PrimaryHDU()]).writeto(tmp_path / "bare.fits")
    for name in ("empty", "notes", "bare"):
        with pytest.raises(PreparationError, match=rf"^path '.*{name}.fits' cannot be read") as bad:
            read(tmp_path / f"{name}.fits")
        assert bad.value.flag == Flag.FAILED | Flag.BAD_INPUT
