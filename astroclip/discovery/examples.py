"""Rank a reference by a few labeled examples, ask for the labels that help most, and again."""

from pathlib import Path

import numpy as np
from astropy.table import MaskedColumn, QTable

from astroclip._columns import column_arrays
from astroclip._validation import check_choice, check_integer, check_length
from astroclip.tables import (
    check_same_model,
    embedding_matrix,
    row_name,
    validate_embedding_table,
    write_table,
)

__all__ = ["ExampleSearch"]

METHODS = ("logistic", "prototype")
STRATEGIES = ("likely", "uncertain", "diverse")
N_BACKGROUND = 300  # unlabeled objects that stand in for counter-examples
BLOCK_ROWS = 100_000  # rows that are scored at a time: bounds the memory
CANDIDATES = 10  # likely objects among which each diverse one is chosen
OWN = ("id", "rank", "score", "labeled", "label", "embedding")  # not of the reference
LABEL_FORMAT = "astroclip-labels"
LABEL_COLUMNS = ("id", "label", "round")
SHRINKAGE = 0.01  # of the largest variance: components with less are noise, not detail
LARGEST_SAMPLE = 20_000  # rows that the scaling is fitted on
SPREAD = 5.0  # rms length of a scaled embedding, with which INVERSE_PENALTY was chosen
INVERSE_PENALTY = 0.1  # scikit-learn's C
FADING = 50.0  # labeled counter-examples that weigh as much as the background


class ExampleSearch:
    r"""Rank a reference by labeled examples and ask for the labels that help most.

    Parameters
    ----------
    table : `~astropy.table.QTable`
        The reference: an embedding table. Rows without an embedding rank last.
    modality : str, optional
        ``"spectrum"`` or ``"image"``: the rows to search, needed if the table has both.
    method : str
        ``"logistic"``: a balanced logistic regression, in which unlabeled objects stand in
        for counter-examples while there are few; or ``"prototype"``: from the mean of the
        counter-examples (or of the reference) to the mean of the examples.
    random_state : int
        Chooses the unlabeled objects, and the rows of a large reference that directions
        are scaled on.

    Attributes
    ----------
    table : `~astropy.table.QTable`
        The rows that are searched.
    n_rounds : int
        How often labels were given.

    Raises
    ------
    TypeError, ValueError
        If ``table`` is no embedding table, holds two modalities, or an id twice.

    Notes
    -----
    Both methods are linear in the embeddings, after their principal components were divided
    by their scatter: component k of variance :math:`\lambda_k` by
    :math:`\sqrt{\lambda_k + 0.01 \lambda_1}`, so that weak components count and noise is not
    amplified. Ranking a reference is then one matrix product. In the logistic regression
    examples and all others weigh the same; of the others' weight the unlabeled objects have
    :math:`1 / (1 + Q / 50)` beside Q counter-examples. How well the methods do is measured in
    the user guide, :doc:`/user_guide/discovery`.

    References
    ----------
    Lewis & Gale (1994), SIGIR, 3 (uncertainty sampling); Sener & Savarese (2018), ICLR
    (diverse labels by farthest-first choice); Elkan & Noto (2008), KDD, 213 (unlabeled
    objects instead of counter-examples); Walmsley et al. (2022), MNRAS 513, 1581 (galaxies).

    Examples
    --------
    >>> import astroclip
    >>> from astroclip.discovery import ExampleSearch
    >>> search = ExampleSearch(astroclip.reference_table(), modality="image")
    >>> search.label(["sim-000003", "sim-000012"], True)
    >>> search.label("sim-000100", False)
    >>> ranked = search.rank(5, new_only=True)
    >>> ranked["rank"].tolist()
    [1, 2, 3, 4, 5]
    >>> len(search.suggest(3, strategy="diverse"))
    3
    """

    def __init__(self, table, *, modality=None, method="logistic", random_state=0):
        validate_embedding_table(table)
        self.method = check_choice(method, METHODS, "method")
        self.random_state = random_state
        modalities = np.asarray(table["modality"]).astype(str)
        present = sorted(set(modalities.tolist()))
        if modality is None and len(present) > 1:
            msg = (
                f"table has rows of {' and '.join(present)} and modality is None; expected one of "
                f"them. Pass modality={present[0]!r}."
            )
            raise ValueError(msg)
        modality = check_choice(modality or present[0], present, "modality")
        self.table = table[modalities == modality]
        self._ids = np.asarray(self.table["id"]).astype(str)
        names, counts = np.unique(self._ids, return_counts=True)
        if len(names) < len(self._ids):
            twice = str(names[counts > 1][0])
            msg = (
                f"table has {int(counts.max())} rows of id {twice!r}; expected one a modality. "
                f"Keep one of them, or give them ids of their own."
            )
            raise ValueError(msg)
        self._row_of = {name: row for row, name in enumerate(self._ids.tolist())}
        self._embedding, self._valid = embedding_matrix(self.table)
        n_valid = int(self._valid.sum())
        if n_valid < 2:
            msg = f"table has {n_valid} rows with an embedding; expected two or more."
            raise ValueError(msg)
        rng = np.random.default_rng(random_state)
        usable = np.flatnonzero(self._valid)
        self._center, self._matrix = _fit_scaling(self._embedding[usable], rng)
        n_background = min(len(usable), 2 * N_BACKGROUND)
        self._background = rng.choice(usable, n_background, replace=False)
        self._label = np.full(len(self.table), -1, dtype=np.int8)  # -1 where there is none
        self._round = np.zeros(len(self.table), dtype=np.int64)
        self.n_rounds = 0

    def __len__(self):
        return len(self.table)

    def __repr__(self):
        n_examples, n_others = ((self._label == value).sum() for value in (1, 0))
        return (
            f"<ExampleSearch in {len(self)} rows: {n_examples} examples, {n_others} "
            f"counter-examples>"
        )

    # ------------------------------------------------------------------ labels
    def label(self, ids, values):
        """Say which objects are examples and which are not.

        Parameters
        ----------
        ids : str or sequence of str
            Ids of the table's rows. A label given before is replaced.
        values : bool or (N,) array-like
            True (1) for examples, False (0) for counter-examples.

        Raises
        ------
        KeyError
            If an id is not in the table.
        ValueError
            If a value is neither, or an object has no embedding.
        """
        rows = self._rows(ids)
        values, mask, _ = column_arrays(values)
        if values.dtype.kind not in "biuf":
            msg = f"values has dtype {values.dtype}; expected True or False (1 or 0) for each id."
            raise ValueError(msg)
        values = check_length(values, len(rows), "values", of="ids")
        wrong = np.flatnonzero(((values != 0) & (values != 1)) | mask)
        if len(wrong):
            value = "masked" if mask.any() and mask[wrong[0]] else repr(values[wrong[0]])
            msg = (
                f"values[{wrong[0]}] is {value}; expected True or False (1 or 0). Take ids whose "
                f"label is not known out."
            )
            raise ValueError(msg)
        failed = rows[~self._valid[rows]]
        if len(failed):
            msg = (
                f"{row_name(self.table, int(failed[0]))} has no embedding, so nothing can be "
                f"learned from its label; expected ids of embedded objects. Leave it out."
            )
            raise ValueError(msg)
        self.n_rounds += 1
        self._label[rows] = values
        self._round[rows] = self.n_rounds

    def unlabel(self, ids):
        """Take labels back.

        Parameters
        ----------
        ids : str or sequence of str

        Raises
        ------
        KeyError
            If an id is not in the table.
        """
        rows = self._rows(ids)
        self._label[rows], self._round[rows] = -1, 0

    @property
    def labels(self):
        """The labels: ``id``, ``label`` (bool) and ``round``, from 1, in order of giving."""
        rows = np.flatnonzero(self._label >= 0)
        rows = rows[np.argsort(self._round[rows], kind="stable")]
        labels = QTable()
        labels["id"] = self._ids[rows]
        labels["label"] = self._label[rows] == 1
        labels["round"] = self._round[rows]
        labels.meta["MODEL"] = str(self.table.meta["MODEL"])
        return labels

    def save_labels(self, path, *, overwrite=False):
        """Write the labels to an ECSV file, complete or not at all.

        Parameters
        ----------
        path : path-like
            Ending in ``.ecsv``.
        overwrite : bool

        Raises
        ------
        ValueError
            If the path does not end in ``.ecsv``.
        FileExistsError
            If the file exists and ``overwrite`` is False.
        """
        _check_suffix(path)
        labels = self.labels
        labels.meta["FORMAT"] = LABEL_FORMAT
        write_table(labels, path, overwrite=overwrite)

    def load_labels(self, path, *, ignore_missing=False):
        """Add the labels of a file that `save_labels` wrote.

        Labels belong to objects, not to embeddings: they may be given with one model and
        used with another.

        Parameters
        ----------
        path : path-like
        ignore_missing : bool
            Leave out ids that the table does not have, instead of raising.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file, or it holds no labels.
        KeyError
            If an id is not in the table and ``ignore_missing`` is False.
        """
        _check_suffix(path)
        if not Path(path).is_file():
            msg = f"path {str(path)!r} is no file; expected one written by save_labels."
            raise FileNotFoundError(msg)
        try:
            labels = QTable.read(path, format="ascii.ecsv")
        except Exception as error:  # whatever the parser meets in a damaged or foreign file
            msg = f"path {str(path)!r} is no readable ECSV file ({error}); expected saved labels."
            raise ValueError(msg) from error
        missing = [name for name in LABEL_COLUMNS if name not in labels.colnames]
        if missing or labels.meta.get("FORMAT") != LABEL_FORMAT:
            reason = f"lacks {', '.join(map(repr, missing))}" if missing else "has another format"
            msg = f"path {str(path)!r} holds no labels: it {reason}; expected saved labels."
            raise ValueError(msg)
        ids = np.asarray(labels["id"]).astype(str)
        values = np.asarray(labels["label"])
        rounds = np.asarray(labels["round"])
        if ignore_missing:
            known = np.array([name in self._row_of for name in ids], dtype=bool)
            ids, values, rounds = ids[known], values[known], rounds[known]
        self._rows(ids)  # all of them, before any is given
        for number in np.unique(rounds):
            self.label(ids[rounds == number], values[rounds == number])

    def _rows(self, ids):
        """Return the rows of ids."""
        ids = [ids] if isinstance(ids, str) else list(np.asarray(ids).astype(str))
        for position, name in enumerate(ids):
            if name not in self._row_of:
                msg = (
                    f"ids[{position}] is {str(name)!r}, which is no id of the {len(self)} rows "
                    f"that are searched; expected one such as {str(self._ids[0])!r}."
                )
                raise KeyError(msg)
        return np.array([self._row_of[name] for name in ids], dtype=np.int64)

    # ------------------------------------------------------------------ ranking
    def scores(self, table=None):
        """Return how much objects are like the examples.

        Parameters
        ----------
        table : `~astropy.table.QTable`, optional
            An embedding table of the same model and weights; by default the rows that are
            searched.

        Returns
        -------
        (N,) float64 `numpy.ndarray`
            Larger is more alike, NaN without an embedding. Of ``"logistic"`` the log odds
            if examples were as frequent as others: good for ranking, not a probability.

        Raises
        ------
        ModelMismatchError
            If the table's embeddings come from another model or other weights.
        ValueError
            If no example was labeled.
        """
        if table is None:
            embedding, valid = self._embedding, self._valid
        else:
            validate_embedding_table(table)
            check_same_model(table, self.table, names=("table", "reference"))
            embedding, valid = embedding_matrix(table)
        direction, offset = self._direction()
        scores = np.empty(len(embedding))
        for first in range(0, len(embedding), BLOCK_ROWS):
            part = slice(first, first + BLOCK_ROWS)
            scores[part] = embedding[part].astype(np.float64) @ direction + offset
        scores[~valid] = np.nan
        return scores

    def _direction(self):
        """Return the direction (D,) and offset that score raw embeddings."""
        rows = [np.flatnonzero(self._label == value) for value in (1, 0)]
        if not len(rows[0]):
            msg = (
                f"no example is labeled ({len(rows[1])} counter-examples are); expected at least "
                f"one. Call label(ids, True) with ids of objects you look for."
            )
            raise ValueError(msg)
        unlabeled = self._background[self._label[self._background] < 0][:N_BACKGROUND]
        examples, others, background = (self._scaled(part) for part in (*rows, unlabeled))
        if self.method == "prototype":
            direction, offset = _prototype_direction(examples, others)
        else:
            direction, offset = _logistic_direction(examples, others, background)
        raw = self._matrix @ direction
        return raw, offset - float(self._center @ raw)

    def _scaled(self, rows):
        """Return scaled embeddings (N, D) of rows."""
        return (self._embedding[rows] - self._center) @ self._matrix

    def rank(self, n_rows=None, *, new_only=False):
        """Return the reference ordered by how much its objects are like the examples.

        Parameters
        ----------
        n_rows : int, optional
            Only so many of the first rows.
        new_only : bool
            Leave out labeled objects.

        Returns
        -------
        `~astropy.table.QTable`
            ``id``, ``rank`` (from 1), ``score`` (see `scores`), ``labeled`` (bool),
            ``label`` (bool, masked where there is none) and the reference's other columns.
            Ties come in reference order, objects without an embedding last.

        Raises
        ------
        ValueError
            If no example was labeled.
        """
        if n_rows is not None:
            n_rows = check_integer(n_rows, "n_rows")
        scores = self.scores()
        order = np.argsort(-scores, kind="stable")  # NaN last
        if new_only:
            order = order[self._label[order] < 0]
        return self._result(order[:n_rows], scores)

    def suggest(self, n_rows=10, *, strategy="likely"):
        """Return objects whose labels would help most.

        Parameters
        ----------
        n_rows : int
            At most so many.
        strategy : str
            ``"likely"``: the unlabeled objects that are most alike; ``"uncertain"``: those
            nearest the boundary, where the score is zero; ``"diverse"``: of ten times as
            many likely ones those that differ most from what is labeled and from each
            other.

        Returns
        -------
        `~astropy.table.QTable`
            As of `rank`, the most wanted label first; ``rank`` counts from 1 in that order.
            Only unlabeled objects with an embedding.

        Raises
        ------
        ValueError
            If no example was labeled, or the strategy is unknown.
        """
        n_rows = check_integer(n_rows, "n_rows")
        check_choice(strategy, STRATEGIES, "strategy")
        scores = self.scores()
        unlabeled = np.flatnonzero((self._label < 0) & self._valid)
        wish = scores[unlabeled]
        if strategy == "uncertain":
            wish = -np.abs(wish)
        order = unlabeled[np.argsort(-wish, kind="stable")]
        if strategy == "diverse":
            order = self._farthest_first(order[: CANDIDATES * n_rows], n_rows)
        return self._result(order[:n_rows], scores)

    def _farthest_first(self, candidates, n_rows):
        """Return rows one by one, each farthest from those labeled and chosen before."""
        points = self._scaled(candidates)
        distance = np.full(len(points), np.inf)  # squared, from the nearest of these
        for point in self._scaled(self._label >= 0):
            distance = np.minimum(distance, ((points - point) ** 2).sum(axis=1))
        chosen = []
        for _ in range(min(n_rows, len(candidates))):
            chosen.append(int(distance.argmax()))
            distance = np.minimum(distance, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
            distance[chosen] = -1.0
        return candidates[chosen]

    def _result(self, rows, scores):
        """Return the rows of the reference as a ranked table."""
        result = QTable()
        label = self._label[rows]
        result["id"] = self._ids[rows]
        result["rank"] = np.arange(1, len(rows) + 1)
        result["score"] = scores[rows]
        result["labeled"] = label >= 0
        result["label"] = MaskedColumn(label == 1, mask=label < 0)
        own = self.table[rows]
        for name in own.colnames:
            if name not in OWN:
                result[name] = own[name]
        result.meta.update(self.table.meta)
        return result


def _check_suffix(path):
    """Raise ValueError unless a path ends in ``.ecsv``."""
    if Path(path).suffix.lower() != ".ecsv":
        msg = f"path {str(path)!r} does not end in '.ecsv'; expected a file of labels."
        raise ValueError(msg)


# ---------------------------------------------------------------------- directions
def _fit_scaling(embedding, rng):
    """Return the center (D,) and matrix (D, D) that make a reference's directions comparable.

    Scaled embeddings are (x - center) @ matrix. Of a large reference some rows are drawn.
    """
    if len(embedding) > LARGEST_SAMPLE:
        chosen = rng.choice(len(embedding), LARGEST_SAMPLE, replace=False)
        embedding = embedding[np.sort(chosen)]
    embedding = embedding.astype(np.float64)
    center = embedding.mean(axis=0)
    variance, axes = np.linalg.eigh(np.cov(embedding - center, rowvar=False, bias=True))
    variance = variance.clip(min=0)
    scale = 1 / np.sqrt(variance + max(SHRINKAGE * variance[-1], np.finfo(float).tiny))
    length = np.sqrt((variance * scale**2).sum())
    return center, axes * scale * (SPREAD / max(length, 1e-12))


def _prototype_direction(examples, others):
    """Return the direction from the mean of others (Q, D) to that of examples (P, D).

    The score is zero half-way; without counter-examples at the reference's mean.
    """
    mean = examples.mean(axis=0)
    if not len(others):
        return mean, 0.0
    other = others.mean(axis=0)
    return mean - other, -0.5 * float((mean - other) @ (mean + other))


def _logistic_direction(examples, others, background):
    """Return the direction of a balanced logistic regression of scaled embeddings.

    The score is the log odds if examples were as frequent as others.
    """
    from sklearn.linear_model import LogisticRegression

    share = 1 / (1 + len(others) / FADING) if len(background) else 0.0
    weight = np.concatenate(
        [
            np.full(len(examples), 1 / len(examples)),
            np.full(len(others), (1 - share) / max(len(others), 1)),
            np.full(len(background), share / max(len(background), 1)),
        ]
    )
    n_labels = len(examples) + len(others)
    rows = np.concatenate([examples, others, background])
    target = np.arange(len(rows)) < len(examples)
    classifier = LogisticRegression(C=INVERSE_PENALTY, max_iter=1000)
    classifier.fit(rows, target, sample_weight=n_labels * weight)
    return classifier.coef_[0], float(classifier.intercept_[0])
