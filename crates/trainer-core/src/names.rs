/// Items of a message: all of a few, else the first ones and how many there are besides.
pub(crate) fn listed(items: &[String], separator: &str) -> String {
    const SHOWN: usize = 6;
    // One more takes no more room than to say that there is one more.
    if items.len() <= SHOWN + 1 {
        return items.join(separator);
    }
    format!("{} and {} more", items[..SHOWN].join(separator), items.len() - SHOWN)
}

#[cfg(test)]
mod tests {
    use super::listed;

    #[test]
    fn many_items_are_counted() {
        let names: Vec<String> = (0..9).map(|number| format!("n{number}")).collect();
        assert_eq!(listed(&names[..2], ", "), "n0, n1");
        assert_eq!(listed(&names[..7], "; "), "n0; n1; n2; n3; n4; n5; n6");
        assert_eq!(listed(&names, ", "), "n0, n1, n2, n3, n4, n5 and 3 more");
    }
}
