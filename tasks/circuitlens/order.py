"""Sort the samples to attribute by the corpus's rows, so that the task for a block of rows reads only its own."""

import numpy as np

from storage.samples import read_samples, sample_ids, samples_by_row_path, write_samples_by_row
from storage.store import ShardKey, Store
from tasks.circuitlens.job import CircuitLensJob
from tasks.shard_task import shard_task


@shard_task("circuitlens-order", "order samples {key.name}")
def order_samples(store: Store, job: CircuitLensJob, key: ShardKey) -> ShardKey:
    """Sort a shard of the samples by row: those of chosen features only, with a mark for those that are continued.

    Memory: the samples of a shard, twice, with 48 bytes each; 8 bytes for each row of the corpora.
    """
    path = samples_by_row_path(store, job.recipe, key)
    if path.exists():
        return key
    settings, chosen = job.settings, job.chosen_features(store, key.layer)
    samples = read_samples(store, key).quantile
    samples = samples.where(np.isin(samples.feature, chosen)).first(settings.samples_per_feature)
    strongest = samples.top(settings.continued_samples if settings.continuation_tokens else 0)
    own, followed = (sample_ids(some.feature, some.sample) for some in (samples, strongest))
    write_samples_by_row(path, samples, np.isin(own, followed), max((block.stop for block in job.blocks), default=0))
    return key
