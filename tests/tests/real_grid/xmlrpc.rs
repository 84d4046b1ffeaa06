//! XML-RPC by clients that others wrote: Python's xmlrpc.client and Perl's RPC::XML.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use reqwest::Method;
use roost_tests::grid::{self, Grid, output, text, tiny};

#[test]
fn real_python_and_perl_clients_speak_xml_rpc() {
    grid::story(1, |grid| {
        grid.join_all()?;
        for name in ["python", "perl"] {
            grid.api.done(Method::POST, "/guests", &tiny(name, "h1", false))?;
        }
        for (language, ending) in [("python3", "py"), ("perl", "pl")] {
            let said = client(grid, language, ending)?;
            ensure!(said.trim_end().ends_with("all fine"), "{language}: {said}");
        }
        for name in ["python", "perl"] {
            grid.await_guest(name, "running", grid::START)?;
        }
        Ok(())
    });
}

fn client(grid: &Grid, language: &str, ending: &str) -> Result<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/real_grid/client.{ending}"));
    let ca = grid.folder.join("ca.pem");
    let mut command = Command::new(language);
    command.arg(script).arg(format!("{}/RPC2", grid.api.base())).arg(text(&ca)?);
    output(command.args(["admin", "correct horse battery staple"]))
}
