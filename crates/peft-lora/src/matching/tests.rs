use std::collections::BTreeMap;

use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Fixture {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    config: LoraConfig,
    decisions: BTreeMap<String, Option<PeftDecision>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PeftDecision {
    Adapted(usize, f64),
    Other(String),
}

#[test]
fn decides_as_peft_does() {
    let fixture: Fixture = serde_json::from_str(include_str!("../../tests/fixtures/matching.json")).unwrap();
    let mut adapted = 0;
    for Case { config, decisions } in fixture.cases {
        let targets = Targets::new(&config).unwrap();
        for (path, expected) in decisions {
            let decision = targets.decide(&path).unwrap();
            let case = format!("{path} with {config:?}");
            match expected {
                None => assert_eq!(decision, Decision::NotTargeted, "{case}"),
                Some(PeftDecision::Other(other)) => {
                    assert_eq!((decision, &*other), (Decision::Excluded, "excluded"), "{case}");
                }
                Some(PeftDecision::Adapted(rank, alpha)) => {
                    assert_eq!(decision, Decision::Adapted, "{case}");
                    let options = targets.options(&path).unwrap();
                    assert_eq!((options.rank, options.alpha), (rank, alpha), "{case}");
                    adapted += 1;
                }
            }
        }
    }
    assert!(adapted > 150, "{adapted} decisions to adapt");
}

#[test]
fn all_linear_leaves_out_the_output_layer_and_the_excluded() {
    let config = LoraConfig {
        target_modules: "ALL-linear".into(),
        exclude_modules: Some(["key"].into()),
        ..LoraConfig::default()
    };
    let mut targets = Targets::new(&config).unwrap();
    assert_eq!(targets.decide("output").unwrap(), Decision::Adapted);
    targets.output_layer = Some("output".to_owned());
    assert_eq!(targets.decide("output").unwrap(), Decision::NotTargeted);
    assert_eq!(targets.decide("layer.0.output").unwrap(), Decision::Adapted);
    assert_eq!(targets.decide("layer.0.key").unwrap(), Decision::Excluded);
}
