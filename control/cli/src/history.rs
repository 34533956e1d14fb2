//! Looking back.

use std::path::Path;

use march_proto::v1;

use crate::apply::changes_text;
use crate::args::{HistoryArgs, Output};
use crate::client::control;
use crate::exit::{Code, Failure};
use crate::output;
use crate::table::Table;

pub(crate) async fn history(
    socket: &Path,
    output: Output,
    args: HistoryArgs,
) -> Result<Code, Failure> {
    if args.revision == Some(0) {
        return Err(Failure::new(Code::NotFound, "there is no revision 0"));
    }
    let request = v1::HistoryRequest {
        limit: args.limit,
        revision: args.revision.unwrap_or(0),
    };
    let response = control(socket).await?.history(request).await?.into_inner();
    output::value(output, &response.revisions, || match output {
        Output::Name => response
            .revisions
            .iter()
            .fold(String::new(), |text, r| format!("{text}{}\n", r.number)),
        _ => {
            let mut text = revisions_text(&response.revisions, output);
            if let (Some(_), [revision]) = (args.revision, response.revisions.as_slice()) {
                text.push('\n');
                text += &changes_text(&revision.changes);
            }
            text
        }
    })?;
    Ok(Code::Ok)
}

fn revisions_text(revisions: &[v1::Revision], output: Output) -> String {
    let mut table = Table::new(&[
        "REVISION",
        "CREATED",
        "AUTHOR",
        "DOCUMENTS",
        "CHANGES",
        "HASH",
        "COMMENT",
    ]);
    for revision in revisions {
        let hash = match output {
            Output::Wide => revision.hash.as_str(),
            _ => revision.hash.get(..12).unwrap_or(&revision.hash),
        };
        table.row(vec![
            revision.number.to_string(),
            utc(revision.created_unix_ms / 1000),
            revision.author.clone(),
            revision.documents.to_string(),
            format!(
                "+{} ~{} -{}",
                revision.added, revision.changed, revision.removed
            ),
            hash.to_owned(),
            revision.comment.clone(),
        ]);
    }
    table.to_text()
}

/// A time as RFC 3339 in UTC, from seconds since 1970.
pub(crate) fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // The civil calendar in years that begin in March, so that the leap day is the last of its year.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(utc(4_107_542_400), "2100-03-01T00:00:00Z");
    }
}
