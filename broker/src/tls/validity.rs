//! From when to when a certificate is good, read from its DER form. Nothing else of it is looked at here.

/// Seconds since 1970, from the first to the last in which a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub begins: i64,
    pub ends: i64,
}

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The explicit tag of the version, which version 1 leaves out.
const VERSION: u8 = 0xa0;

/// Reads RFC 5280's `Certificate`, as far as the fifth field of its first part; `None` for what is none.
pub(super) fn validity(certificate: &[u8]) -> Option<Validity> {
    let (mut certificate, _) = content(certificate, SEQUENCE)?;
    let mut fields = take(&mut certificate, SEQUENCE)?;
    if fields.first() == Some(&VERSION) {
        take(&mut fields, VERSION)?;
    }
    for _serial_algorithm_issuer in 0..3 {
        let tag = *fields.first()?;
        take(&mut fields, tag)?;
    }
    let mut times = take(&mut fields, SEQUENCE)?;
    Some(Validity { begins: time(&mut times)?, ends: time(&mut times)? })
}

/// Takes one value off the front.
fn take<'a>(from: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (value, rest) = content(from, tag)?;
    *from = rest;
    Some(value)
}

/// The content of a value with this tag, and what follows it.
fn content(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ 0..0x80 => (usize::from(short), rest),
        long => {
            // DER never leaves a length open (0x80), and no certificate needs more than four bytes for one.
            let count = usize::from(long & 0x7f);
            let digits = rest.get(..count).filter(|_| (1..=4).contains(&count))?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), &rest[count..])
        }
    };
    (*found == tag && length <= rest.len()).then(|| rest.split_at(length))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, the only forms that RFC 5280 allows.
fn time(from: &mut &[u8]) -> Option<i64> {
    let tag = *from.first()?;
    let text = std::str::from_utf8(take(from, tag)?).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let year = number(text, 0, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        GENERALIZED_TIME => (number(text, 0, 4)?, text.get(4..)?),
        _ => return None,
    };
    let field = |at| number(rest, at, at + 2);
    let (month, day) = (field(0)?, field(2)?);
    let (hour, minute, second) = (field(4)?, field(6)?, field(8)?);
    let sound = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 60;
    sound.then(|| days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

fn number(text: &str, from: usize, to: usize) -> Option<i64> {
    text.get(from..to)?.parse::<u16>().ok().map(i64::from)
}

/// Days since 1970-01-01 in the Gregorian calendar: years begin in March here, so that the leap day comes last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tag: u8, text: &str) -> Option<i64> {
        let bytes = [&[tag, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        time(&mut bytes.as_slice())
    }

    #[test]
    fn both_forms_of_a_time() {
        for (tag, text, expected) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (UTC_TIME, "000229120000Z", Some(951_825_600)),
            (GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000)),
            (GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
            (UTC_TIME, "7001010000Z", None),
            (UTC_TIME, "701301000000Z", None),
            (UTC_TIME, "700101000000+0100", None),
            (GENERALIZED_TIME, "2050010100000Z", None),
            (SEQUENCE, "700101000000Z", None),
        ] {
            assert_eq!(of(tag, text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_cut_short_is_no_certificate() {
        let times = [&[UTC_TIME, 13][..], b"700101000000Z", &[UTC_TIME, 13], b"700102000000Z"].concat();
        let fields = [&[2, 1, 1, SEQUENCE, 0, SEQUENCE, 0, SEQUENCE, 30][..], &times].concat();
        let certificate = [&[SEQUENCE, 0x81, 41, SEQUENCE, 39][..], &fields].concat();
        assert_eq!(validity(&certificate), Some(Validity { begins: 0, ends: 86_400 }));
        for end in 0..certificate.len() {
            assert_eq!(validity(&certificate[..end]), None, "{end}");
        }
    }
}
