/// The sequences that are decoded together: which picture each looks at, and where the keys and values of its tokens are.
///
/// Keys and values of a token stay where they were written. A sequence is a list of places, so that a beam that goes on
/// in two ways, or takes the place of another, costs two short lists instead of copies of what it has said.
#[derive(Clone, Debug)]
pub struct DecodingRows {
    pub(super) rows: Vec<Row>,
    /// Places given out so far.
    pub(super) used: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) picture: usize,
    pub(super) places: Vec<usize>,
}

impl DecodingRows {
    /// One sequence without text for each picture.
    pub fn new(pictures: usize) -> Self {
        Self { rows: (0..pictures).map(|picture| Row { picture, places: Vec::new() }).collect(), used: 0 }
    }

    /// The sequences of several steps that follow one another as rows of one: those of the first, then those of the second,
    /// and so on. Each of `steps` is what the one before it became by [`reorder`](Self::reorder) and
    /// [`extend`](Self::extend).
    ///
    /// A step's tokens are in the sequences of those after it, so that all of them can be read at once if the tokens are
    /// known, as guessed ones are.
    pub fn join<'a>(steps: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut joined = Self::new(0);
        for step in steps {
            joined.rows.extend(step.rows.iter().cloned());
            joined.used = joined.used.max(step.used);
        }
        joined
    }

    /// Number of sequences.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Text tokens of each sequence.
    pub fn lengths(&self) -> impl Iterator<Item = usize> {
        self.rows.iter().map(|row| row.places.len())
    }

    /// Text tokens of the longest sequence.
    pub fn tokens(&self) -> usize {
        self.lengths().max().unwrap_or(0)
    }

    /// Makes sequence `i` what sequence `parents[i]` was.
    ///
    /// # Panics
    /// If there is no such sequence.
    pub fn reorder(&mut self, parents: &[usize]) {
        self.rows = parents.iter().map(|parent| self.rows[*parent].clone()).collect();
    }

    /// Gives places to `new` tokens of each sequence, those of the first one after another, then those of the second, and
    /// so on.
    pub fn extend(&mut self, new: usize) {
        for row in &mut self.rows {
            row.places.extend(self.used..self.used + new);
            self.used += new;
        }
    }

    /// The first of the places that the last `new` tokens of all sequences have, if each sequence has so many and theirs
    /// follow one another.
    pub(super) fn newest(&self, new: usize) -> Option<usize> {
        let first = self.used.checked_sub(self.len() * new)?;
        let mut places = first..;
        for row in &self.rows {
            let newest = &row.places[row.places.len().checked_sub(new)?..];
            if !newest.iter().copied().eq(places.by_ref().take(new)) {
                return None;
            }
        }
        Some(first)
    }
}
