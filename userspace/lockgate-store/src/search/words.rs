//! What a word is: letters and digits, lower-cased. The index cuts text in the same way (tantivy's simple tokenizer), so
//! that what it calls a candidate and what [`super::matching`] calls a hit agree.

use std::borrow::Cow;

/// Longer words are not searched for: tantivy has no room for terms past 64 KiB, and nobody types one.
pub(super) const MAX_WORD_BYTES: usize = 255;

/// The words of a text, in order. In the place of one that is too long stands an empty one, which nothing asks for: its
/// neighbours are not next to each other, as in the index.
pub(super) fn words(text: &str) -> impl Iterator<Item = Cow<'_, str>> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(lower)
        .map(|word| if word.len() < MAX_WORD_BYTES { word } else { Cow::Borrowed("") })
}

/// Character by character, as tantivy's lower-caser does it: a word's end changes nothing.
pub(super) fn lower(word: &str) -> Cow<'_, str> {
    if word.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        Cow::Borrowed(word)
    } else {
        Cow::Owned(word.chars().flat_map(char::to_lowercase).collect())
    }
}

/// Whether the words of `phrase` stand next to each other among `words`. A phrase without words is everywhere.
pub(super) fn holds_phrase(words: &[Cow<'_, str>], phrase: &[String]) -> bool {
    phrase.is_empty() || words.windows(phrase.len()).any(|window| window.iter().eq(phrase))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_letters_and_digits_without_case() {
        let cut = |text: &str| words(text).map(Cow::into_owned).collect::<Vec<_>>();
        let expected = ["select", "note", "from", "public", "orders", "where", "id", "42"];
        assert_eq!(cut("SELECT Note FROM public.orders WHERE id=42"), expected);
        assert_eq!(cut("github_actions:Acme/Billing"), ["github", "actions", "acme", "billing"]);
        assert_eq!(cut("ΣΊΣΥΦΟΣ — Straße\u{202e}x"), ["σίσυφοσ", "straße", "x"]);
        assert!(cut(&"x".repeat(MAX_WORD_BYTES)) == [""] && cut("--';").is_empty());
    }

    #[test]
    fn phrases_are_found_whole_and_in_order() {
        let text: Vec<_> = words("drop table drop table orders").collect();
        let phrase = |text: &str| words(text).map(Cow::into_owned).collect::<Vec<_>>();
        for (wanted, found) in [
            ("table orders", true),
            ("DROP TABLE ORDERS", true),
            ("drop orders", false),
            ("", true),
            ("orders drop", false),
        ] {
            assert_eq!(holds_phrase(&text, &phrase(wanted)), found, "{wanted}");
        }
    }
}
