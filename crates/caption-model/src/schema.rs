use std::collections::BTreeMap;

/// The names and shapes of the tensors of a checkpoint, as its configuration describes them.
#[derive(Clone, Debug)]
pub struct TensorSchema {
    pub(crate) shapes: BTreeMap<String, Vec<usize>>,
    /// Name of the word embedding's weight.
    pub(crate) words: String,
    /// Path of the LM head, a linear layer.
    pub(crate) head: String,
    /// Name of the LM head's bias.
    pub(crate) head_bias: String,
    /// Whether the configuration ties the LM head to the word embedding.
    pub(crate) tie: bool,
    /// Another name that a tensor may have in a file, and its name here.
    pub(crate) aliases: BTreeMap<String, String>,
    /// Names of buffers that a file may have and that are not weights.
    pub(crate) buffers: Vec<String>,
}

impl TensorSchema {
    /// The word embedding `words`, of shape `(vocabulary, width)`, and the LM head at the path `head`, whose bias is called
    /// `head_bias`. With `tie` they share a weight, which has the word embedding's name.
    pub fn new(words: &str, head: &str, head_bias: &str, [vocabulary, width]: [usize; 2], tie: bool) -> Self {
        let mut schema = Self {
            shapes: BTreeMap::new(),
            words: words.to_owned(),
            head: head.to_owned(),
            head_bias: head_bias.to_owned(),
            tie,
            aliases: BTreeMap::new(),
            buffers: Vec::new(),
        };
        schema.tensor(words, &[vocabulary, width]);
        schema.tensor(head_bias, &[vocabulary]);
        if !tie {
            let weight = schema.head_weight();
            schema.tensor(&weight, &[vocabulary, width]);
        }
        schema
    }

    /// Adds a tensor.
    pub fn tensor(&mut self, name: &str, shape: &[usize]) {
        self.shapes.insert(name.to_owned(), shape.to_vec());
    }

    /// Adds the weight and the bias of a linear layer.
    pub fn linear(&mut self, path: &str, in_features: usize, out_features: usize) {
        self.tensor(&format!("{path}.weight"), &[out_features, in_features]);
        self.tensor(&format!("{path}.bias"), &[out_features]);
    }

    /// Adds the weight and the bias of a layer norm.
    pub fn norm(&mut self, path: &str, features: usize) {
        self.tensor(&format!("{path}.weight"), &[features]);
        self.tensor(&format!("{path}.bias"), &[features]);
    }

    /// Allows a file to have the tensor `name` under the name `stored`, or under both names.
    pub fn alias(&mut self, stored: &str, name: &str) {
        self.aliases.insert(stored.to_owned(), name.to_owned());
    }

    /// Allows a file to have the buffer `name`, which is not a weight and is not read.
    pub fn buffer(&mut self, name: &str) {
        self.buffers.push(name.to_owned());
    }

    /// Name and shape of every tensor, without a tied head.
    pub fn shapes(&self) -> &BTreeMap<String, Vec<usize>> {
        &self.shapes
    }

    /// Path of the LM head.
    pub fn head(&self) -> &str {
        &self.head
    }

    /// Name of the LM head's weight.
    pub(crate) fn head_weight(&self) -> String {
        format!("{}.weight", self.head)
    }

    /// The name that this schema uses for a tensor of a file.
    pub(crate) fn canonical<'a>(&'a self, stored: &'a str) -> &'a str {
        self.aliases.get(stored).map_or(stored, String::as_str)
    }

    pub(crate) fn is_buffer(&self, name: &str) -> bool {
        self.buffers.iter().any(|buffer| buffer == name)
    }
}
