//! A scanner for the words of captions.

/// Abbreviations that always keep their dot.
const ABBREVIATIONS: &str = " jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri inc co cos \
    corp ltd plc dept univ intl jr sr bros esq mr mrs ms dr drs prof profs sen sens rep reps lt col gen gov govs adm rev \
    maj sgt cpl pvt mt capt st ste ave pres hon brig etc al vs est ";
/// Abbreviations that keep their dot before a number.
const BEFORE_NUMBERS: &str = " no nos fig figs p pp ";
/// Single words that are split in two, and the length of the first part.
const ASSIMILATED: [(&str, usize); 6] =
    [("cannot", 3), ("gonna", 3), ("gotta", 3), ("wanna", 3), ("gimme", 3), ("lemme", 3)];
/// The parts that may follow an apostrophe at the end of a word.
const CLITICS: [&str; 6] = ["s", "m", "d", "ll", "re", "ve"];

/// Takes one token after another from a text.
pub(super) struct Scanner {
    text: Vec<char>,
    at: usize,
    tokens: Vec<String>,
}

impl Scanner {
    pub(super) fn new(text: Vec<char>) -> Self {
        Self { text, at: 0, tokens: Vec::new() }
    }

    /// All tokens of the text.
    pub(super) fn tokens(mut self) -> Vec<String> {
        while self.at < self.text.len() {
            self.next();
        }
        self.tokens
    }

    /// The character `ahead` characters from here, or a space beyond the end.
    fn peek(&self, ahead: usize) -> char {
        self.text.get(self.at + ahead).copied().unwrap_or(' ')
    }

    fn before(&self) -> char {
        self.at.checked_sub(1).map_or(' ', |at| self.text[at])
    }

    /// Takes `count` characters as a token.
    fn push(&mut self, count: usize) {
        self.tokens.push(self.text[self.at..self.at + count].iter().collect());
        self.at += count;
    }

    fn push_as(&mut self, token: &str, count: usize) {
        self.tokens.push(token.to_owned());
        self.at += count;
    }

    /// The number of characters in a row, from `ahead` on, that satisfy `holds`.
    fn run(&self, ahead: usize, holds: impl Fn(char) -> bool) -> usize {
        self.text.iter().skip(self.at + ahead).take_while(|c| holds(**c)).count()
    }

    fn starts(&self, ahead: usize, word: &str) -> bool {
        word.chars().enumerate().all(|(i, c)| self.peek(ahead + i).eq_ignore_ascii_case(&c))
    }

    fn next(&mut self) {
        let c = self.peek(0);
        if c.is_whitespace() {
            self.at += 1;
        } else if let Some(length) = self.address().or_else(|| self.tag()).or_else(|| self.emoticon()) {
            self.special(length);
        } else if is_word(c) || self.signed_number() {
            self.word();
        } else {
            self.symbol(c);
        }
    }

    /// Takes an address, tag or emoticon. The brackets of an emoticon become `-lrb-` and `-rrb-`, as all brackets.
    fn special(&mut self, length: usize) {
        let token: String = self.text[self.at..self.at + length].iter().collect();
        let token = if length <= 4 { token.replace('(', "-LRB-").replace(')', "-RRB-") } else { token };
        self.push_as(&token, length);
    }

    fn address(&self) -> Option<usize> {
        if !["http://", "https://", "www."].iter().any(|start| self.starts(0, start))
            || is_word(self.before())
        {
            return None;
        }
        let length = self.run(0, |c| !c.is_whitespace() && !"\"<>|(){}".contains(c));
        let back = self.text[self.at..self.at + length].iter().rev();
        let trailing = back.take_while(|c| ".,;:!?'".contains(**c)).count();
        (length > trailing + 4).then_some(length - trailing)
    }

    /// `<b>`, `</p>`, `<unk>`.
    fn tag(&self) -> Option<usize> {
        let slash = 1 + usize::from(self.peek(1) == '/');
        if self.peek(0) != '<' || !self.peek(slash).is_ascii_alphabetic() {
            return None;
        }
        let length = self.run(1, |c| !c.is_whitespace() && c != '>' && c != '<');
        (self.peek(length + 1) == '>').then_some(length + 2)
    }

    /// `:)`, `;-(`, `=D`.
    fn emoticon(&self) -> Option<usize> {
        if !":;=".contains(self.peek(0)) || is_word(self.before()) {
            return None;
        }
        let mouth = 1 + usize::from("-o'".contains(self.peek(1)));
        let is_mouth = "()DPdpO".contains(self.peek(mouth));
        (is_mouth && !is_word(self.peek(mouth + 1))).then_some(mouth + 1)
    }

    fn signed_number(&self) -> bool {
        let digit = |c: char| c.is_ascii_digit();
        match self.peek(0) {
            '+' | '-' => digit(self.peek(1)) || (self.peek(1) == '.' && digit(self.peek(2))),
            '.' => digit(self.peek(1)) && !is_word(self.before()),
            _ => false,
        }
    }

    /// Takes a word or number with inner hyphens and dots, then its clitic or the dot of an abbreviation.
    fn word(&mut self) {
        let length = self.word_length();
        let word: String = self.text[self.at..self.at + length].iter().collect::<String>().to_lowercase();
        if let Some((_, first)) = ASSIMILATED.iter().find(|(whole, _)| *whole == word) {
            self.push(*first);
            self.push(length - first);
            return;
        }
        if self.peek(length) == '\'' {
            let clitic = self.clitic(length + 1);
            if word == "y" && self.starts(length + 1, "all") {
                return self.push(2);
            }
            if word.len() > 1 && word.ends_with('n') && self.starts(length + 1, "t") && self.ends(length + 2)
            {
                self.push(length - 1);
                return self.push(3);
            }
            if let Some(clitic) = clitic {
                self.push(length);
                return self.push(1 + clitic);
            }
        }
        let dot = self.peek(length) == '.' && self.keeps_dot(&word, length);
        let plus = word == "c" && (self.starts(1, "++") || self.peek(1) == '#');
        let more = match (plus, self.peek(1)) {
            (true, '#') => 1,
            (true, _) => 2,
            _ => usize::from(dot),
        };
        self.push(length + more);
    }

    /// Length of the word that begins here, without a clitic.
    fn word_length(&self) -> usize {
        let mut length = usize::from(!is_word(self.peek(0)));
        let mut part = length;
        loop {
            length += self.run(length, is_word);
            let (last, joint, next) = (
                length.checked_sub(1).map_or(' ', |ahead| self.peek(ahead)),
                self.peek(length),
                self.peek(length + 1),
            );
            let digits = last.is_ascii_digit() && next.is_ascii_digit();
            let number = self.text[self.at..self.at + length].iter().all(|c| !c.is_alphabetic());
            let joins = match joint {
                '-' | '_' | '@' | '/' => is_word(last) && is_word(next),
                '.' | ',' | ':' if digits => number,
                '.' | '!' | '?' => is_word(last) && next.is_alphabetic(),
                '&' => last.is_uppercase() && next.is_uppercase(),
                '\'' => self.apostrophe_joins(part, length),
                _ => false,
            };
            if !joins {
                return length;
            }
            length += 1;
            if joint == '-' {
                part = length;
            }
        }
    }

    /// Whether the apostrophe at `length` is within a word, as in `o'clock`. The word's last part begins at `part`.
    fn apostrophe_joins(&self, part: usize, length: usize) -> bool {
        let word: String = self.text[self.at + part..self.at + length].iter().collect();
        let name = matches!(word.as_str(), "d" | "D" | "o" | "O" | "l" | "L" | "c" | "qu" | "n" | "ne" | "e");
        let ma_am = word.eq_ignore_ascii_case("ma") && self.starts(length + 1, "am");
        (name || ma_am) && self.peek(length + 1).is_alphabetic() && self.clitic(length + 1).is_none()
    }

    /// Length of the clitic that begins at `ahead`, if there is one.
    fn clitic(&self, ahead: usize) -> Option<usize> {
        let found =
            CLITICS.iter().find(|clitic| self.starts(ahead, clitic) && self.ends(ahead + clitic.len()));
        found.map(|clitic| clitic.len())
    }

    fn ends(&self, ahead: usize) -> bool {
        !is_word(self.peek(ahead))
    }

    fn keeps_dot(&self, word: &str, length: usize) -> bool {
        let listed = |list: &str| list.contains(&format!(" {word} "));
        let initials = word
            .split('.')
            .all(|part| part.chars().count() == 1 && part.chars().all(|c| c.is_ascii_alphabetic()));
        let before_number = self.peek(length + 1).is_ascii_digit()
            || (self.peek(length + 1) == ' ' && self.peek(length + 2).is_ascii_digit());
        initials || listed(ABBREVIATIONS) || (listed(BEFORE_NUMBERS) && before_number)
    }

    fn symbol(&mut self, c: char) {
        let same = self.run(0, |other| other == c);
        match c {
            '(' => self.push_as("-LRB-", 1),
            ')' => self.push_as("-RRB-", 1),
            '[' => self.push_as("-LSB-", 1),
            ']' => self.push_as("-RSB-", 1),
            '{' => self.push_as("-LCB-", 1),
            '}' => self.push_as("-RCB-", 1),
            '\'' => self.apostrophe(),
            // Punctuation is dropped, unless it is repeated unusually often.
            '.' | ',' | ':' | ';' | '"' | '`' => self.at += 1,
            '-' if same < 5 => self.at += same,
            '-' | '*' | '_' => self.push(same),
            '!' | '?' => match self.run(0, |other| other == '!' || other == '?') {
                1 => self.at += 1,
                marks => self.push(marks),
            },
            '#' if same > 1 => self.push(same),
            '#' | '@' if self.peek(1).is_alphabetic() => {
                let name = self.run(1, |other| is_word(other) || other == '_');
                self.push(1 + name);
            }
            '<' | '>' if same > 1 => self.push(2),
            _ => self.push(1),
        }
    }

    /// Takes an apostrophe that does not follow a word: `'s`, `'n'`, `'90s`, `'tis`, or a quote.
    fn apostrophe(&mut self) {
        if let Some(clitic) = self.clitic(1) {
            self.push(1 + clitic);
        } else if self.starts(1, "n'") || (self.starts(1, "em") && self.ends(3)) {
            self.push(3);
        } else if self.peek(1).is_ascii_digit() && self.peek(2).is_ascii_digit() {
            self.push(3 + usize::from(self.starts(3, "s")));
        } else if self.starts(1, "tis") || self.starts(1, "twas") {
            self.push(2);
        } else {
            self.at += 1;
        }
    }
}

/// Whether `c` is a letter or digit, but not a superscript or another number symbol.
fn is_word(c: char) -> bool {
    c.is_alphabetic() || c.is_ascii_digit() || is_mark(c)
}

/// Whether `c` is a combining mark of a script that needs them.
fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{93a}'..='\u{94f}' | '\u{e31}'..='\u{e4e}')
}
