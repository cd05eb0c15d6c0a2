use std::ops::Range;

/// Which keys a query attends to ("sees").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionMask {
    /// Every query sees every key.
    Full,
    /// A prefix, whose tokens see each other and nothing else, followed by causal tokens: GIT's image tokens
    /// and text.
    ///
    /// A query at sequence position `p` sees the keys `0..prefix` if `p < prefix`, and `0..=p` otherwise. The queries
    /// are the positions from `first_query` on; the keys start at position 0.
    CausalAfterPrefix {
        /// Number of prefix tokens.
        prefix: usize,
        /// Sequence position of the first query.
        first_query: usize,
    },
}

impl AttentionMask {
    /// Sequence position of the first query.
    pub(crate) fn first_query(self) -> usize {
        match self {
            Self::Full => 0,
            Self::CausalAfterPrefix { first_query, .. } => first_query,
        }
    }

    /// The number of keys, counted from the first, that query number `query` sees.
    pub(super) fn visible(self, query: usize, keys: usize) -> usize {
        match self {
            Self::Full => keys,
            Self::CausalAfterPrefix { prefix, first_query } => {
                (first_query + query + 1).max(prefix).min(keys)
            }
        }
    }

    /// Ranges of queries, each with the number of keys that any of them sees, so that products leave out masked keys.
    pub(super) fn blocks(self, queries: usize, keys: usize) -> Vec<(Range<usize>, usize)> {
        let split = match self {
            Self::Full => 0,
            Self::CausalAfterPrefix { prefix, first_query } => {
                prefix.saturating_sub(first_query).min(queries)
            }
        };
        [0..split, split..queries]
            .into_iter()
            .filter(|block| !block.is_empty())
            .map(|block| (block.clone(), self.visible(block.end - 1, keys)))
            .collect()
    }
}
