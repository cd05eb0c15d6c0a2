use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// How to initialise `A` and `B`: `true`, `false`, `"gaussian"`, `"pissa"`, `"pissa_niter_N"` or `"olora"` in JSON.
///
/// Files may also name `"eva"`, `"orthogonal"` or `"mica"`, which change only the initial `A` and `B`; they are
/// read as [`Default`](Self::Default). Other methods that change the base's weights are an error.
///
/// PiSSA and OLoRA subtract the initial update from the base's weight, so that training starts at the base
/// model. They keep a second copy of the adapted weights in memory. Their adapters are
/// [saved](crate::Adapter::save) as plain LoRA of twice the rank for the original base, as PEFT converts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InitLoraWeights {
    /// `A` uniform in `±1 / sqrt(in_features)` (Kaiming with `a = sqrt(5)`) and `B` zero, so that training
    /// starts at the base model.
    #[default]
    Default,
    /// `A` normal with standard deviation `1 / r` and `B` zero.
    Gaussian,
    /// `A` as by default and `B` uniform in `±1 / sqrt(r)`. This is not the base model; use it in tests.
    Random,
    /// `s B A` is the best approximation of the weight of rank `r`: its largest singular values and their vectors
    /// (PiSSA, Meng et al., 2024, <https://arxiv.org/abs/2404.02948>).
    Pissa,
    /// An approximation of [`Pissa`](Self::Pissa) that takes a fraction of the time: this number of subspace
    /// iterations from random vectors (Halko et al., 2009, <https://arxiv.org/abs/0909.4061>), usually 4 to 16.
    PissaNiter(usize),
    /// `B` and `A` are the first columns of `Q` and rows of `R` in the QR decomposition of the weight (OLoRA,
    /// Büyükakyüz, 2024, <https://arxiv.org/abs/2406.01775>).
    Olora,
}

impl InitLoraWeights {
    /// Whether the base's weight is changed too.
    pub(crate) fn changes_base(self) -> bool {
        matches!(self, Self::Pissa | Self::PissaNiter(_) | Self::Olora)
    }
}

impl Serialize for InitLoraWeights {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Default => serializer.serialize_bool(true),
            Self::Random => serializer.serialize_bool(false),
            Self::Gaussian => serializer.serialize_str("gaussian"),
            Self::Pissa => serializer.serialize_str("pissa"),
            Self::PissaNiter(iterations) => serializer.serialize_str(&format!("{PISSA_NITER}{iterations}")),
            Self::Olora => serializer.serialize_str("olora"),
        }
    }
}

impl<'de> Deserialize<'de> for InitLoraWeights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let name = match &value {
            Value::Bool(true) => return Ok(Self::Default),
            Value::Bool(false) => return Ok(Self::Random),
            Value::String(name) => name.to_ascii_lowercase(),
            _ => String::new(),
        };
        if let Some(Ok(iterations)) = name.strip_prefix(PISSA_NITER).map(str::parse) {
            return Ok(Self::PissaNiter(iterations));
        }
        match name.as_str() {
            "gaussian" => Ok(Self::Gaussian),
            "pissa" => Ok(Self::Pissa),
            "olora" => Ok(Self::Olora),
            name if FIRST_VALUES.contains(&name) => Ok(Self::Default),
            name if CHANGED_BASE.contains(&name) => Err(D::Error::custom(format!(
                "not supported: init_lora_weights = {value}, which also changed the weights of the base, so that the \
                 adapter does not fit the base as it is; convert it with PEFT (save_pretrained with \
                 path_initial_model_for_weight_conversion)"
            ))),
            _ => Err(D::Error::custom(format!(
                "not supported: init_lora_weights = {value}; it can be true, false, \"gaussian\", \"pissa\", \
                 \"pissa_niter_N\" or \"olora\""
            ))),
        }
    }
}

const PISSA_NITER: &str = "pissa_niter_";

/// Values of `init_lora_weights` that change only the initial `A` and `B`.
const FIRST_VALUES: [&str; 3] = ["eva", "orthogonal", "mica"];

/// Other values that change the base's weights.
const CHANGED_BASE: [&str; 3] = ["corda", "loftq", "lora_ga"];
