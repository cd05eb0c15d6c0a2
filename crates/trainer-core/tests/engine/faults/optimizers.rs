//! Parameters and gradients that an optimizer was not created for.

use super::*;

#[test]
fn an_optimizer_refuses_parameters_of_other_shapes() {
    let parameters = |shape: &[usize]| {
        let variable = Var::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        Parameters::new([("weight".to_owned(), variable)]).unwrap()
    };
    let gradients = |parameters: &Parameters| {
        let ones = parameters.iter().map(|(name, variable)| (name.to_owned(), variable.ones_like().unwrap()));
        Gradients::from_iter(ones)
    };
    for index in 0..2 {
        let (small, large) = (parameters(&[2, 3]), parameters(&[2, 4]));
        let [adamw, sgd] = built_in_optimizers(&small);
        let mut optimizer = if index == 0 { adamw } else { sgd };
        for parameters in [&large, &small] {
            let refusal = optimizer.step(parameters, &gradients(&large), 0.1).unwrap_err().to_string();
            let expected = "expects shape [2, 3] for the parameter `weight`, got [2, 4]";
            assert!(refusal.contains(expected), "{refusal}");
            let is_unchanged = |variable: &Var| values(variable).iter().all(|value| *value == 0.0);
            assert!(parameters.iter().all(|(_, variable)| is_unchanged(variable)), "{optimizer:?}");
        }
        optimizer.step(&small, &gradients(&small), 0.1).unwrap();
    }
}

fn built_in_optimizers(parameters: &Parameters) -> [Box<dyn Optimizer>; 2] {
    let arguments = TrainingArguments { sgd_momentum: 0.9, ..Default::default() };
    [
        Box::new(AdamW::new(&arguments, parameters).unwrap()),
        Box::new(Sgd::new(&arguments, parameters).unwrap()),
    ]
}

#[test]
fn an_optimizer_refuses_parameters_that_it_was_not_created_for() {
    let parameters = |name: &str| {
        let variable = Var::from_tensor(&Tensor::ones(2, DType::F32, &Device::Cpu).unwrap()).unwrap();
        Parameters::new([(name.to_owned(), variable)]).unwrap()
    };
    let (known, other) = (parameters("known"), parameters("other"));
    let mut gradients = Gradients::new();
    for (_, variable) in known.iter().chain(other.iter()) {
        let loss = variable.as_tensor().sum_all().unwrap();
        for parameters in [&known, &other] {
            gradients.accumulate(parameters, loss.backward().unwrap()).unwrap();
        }
    }
    for mut optimizer in built_in_optimizers(&known) {
        let before = values(known.iter().next().unwrap().1);
        optimizer.step(&known, &gradients, 0.1).unwrap();
        assert_ne!(values(known.iter().next().unwrap().1), before, "{optimizer:?}");
        let refusal = optimizer.step(&other, &gradients, 0.1).unwrap_err();
        assert!(matches!(&refusal, Error::UnknownParameter { name } if name == "other"), "{refusal}");
    }
}
