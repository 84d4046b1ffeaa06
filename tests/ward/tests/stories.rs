//! Stories of `tests/scenarios/ward`: what goes wrong above the line, what follows below it, word for word.
//! `ROOST_BLESS=1` writes the transcripts anew; read the difference before you keep it.

use std::path::Path;

use roost_ward_tests::simulation::tell;

const LINE: &str = "----\n";

#[test]
fn every_story_goes_as_told() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/ward");
    let mut wrong = Vec::new();
    let mut stories: Vec<_> =
        std::fs::read_dir(&folder).expect("read stories").map(|entry| entry.expect("read a story").path()).collect();
    stories.sort();
    assert!(stories.len() >= 20, "only {} stories in {}", stories.len(), folder.display());
    for path in stories {
        let text = std::fs::read_to_string(&path).expect("read a story");
        let (story, told) = text.split_once(LINE).expect("a story has a line of dashes");
        let goes = tell(story).unwrap_or_else(|line| panic!("{}: {line}", path.display()));
        if std::env::var_os("ROOST_BLESS").is_some() {
            std::fs::write(&path, format!("{story}{LINE}{goes}")).expect("write a story");
        } else if goes != told {
            wrong.push(format!("{}:\n{goes}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
