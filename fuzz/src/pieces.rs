//! Cutting an input as reads from a socket cut a stream.

/// Takes the first two bytes for lengths of pieces that follow each other in turns, and cuts the rest accordingly. Gives the rest
/// as well, whole.
#[must_use]
pub fn pieces(input: &[u8]) -> (&[u8], Vec<&[u8]>) {
    let Some((lengths, whole)) = input.split_first_chunk::<2>() else { return (&[], Vec::new()) };
    let mut rest = whole;
    let mut pieces = Vec::new();
    for length in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, behind) = rest.split_at(usize::from(*length).clamp(1, rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    (whole, pieces)
}
