//! A real aggregator of the bench's own, on addresses and in a folder of its own; gone when dropped.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use tempfile::TempDir;

use crate::api::Api;

const PASSWORD: &str = "correct horse battery staple";
/// How long it may take to answer first on a loaded machine.
const START: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(50);

/// The running program.
#[derive(Debug)]
pub struct Aggregator {
    child: Child,
    pub api: Api,
    pub quic: SocketAddr,
    /// Settings, data and log.
    pub folder: TempDir,
}

impl Aggregator {
    /// Starts `program` and logs in.
    ///
    /// # Errors
    /// It does not start, or does not answer.
    pub async fn start(program: &Path, quic: SocketAddr, https: SocketAddr) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("roost-bench.").tempdir_in("/var/tmp")?;
        let at = folder.path();
        let settings = at.join("aggregator.toml");
        fs::write(at.join("password"), format!("{PASSWORD}\n"))?;
        let text = format!(
            "data_dir = '{}/data'\nquic_listen = '{quic}'\nhttps_listen = '{https}'\npublic = ['{}']\nlog = 'warn'\n",
            at.display(),
            https.ip(),
        );
        fs::write(&settings, text)?;
        run(Command::new(program)
            .arg("--config")
            .arg(&settings)
            .arg("init")
            .arg("--admin-password-file")
            .arg(at.join("password")))?;
        let ca = run(Command::new(program).arg("--config").arg(&settings).arg("ca"))?;
        let begin = ca.find("-----BEGIN").context("the CA's certificate")?;
        let log = fs::File::create(at.join("log"))?;
        let mut command = Command::new(program);
        command.arg("--config").arg(&settings).arg("run").stdin(Stdio::null());
        let child = command.stdout(log.try_clone()?).stderr(log).spawn().context("start the aggregator")?;
        let api = Api::new(&format!("https://{https}"), &ca.as_bytes()[begin..])?;
        let mut aggregator = Self { child, api, quic, folder };
        aggregator.log_in().await?;
        Ok(aggregator)
    }

    async fn log_in(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            match self.api.post("/sessions", &json!({"user": "admin", "password": PASSWORD})).await {
                Ok(session) => {
                    self.api.set_token(session["token"].as_str().context("the session's token")?);
                    return Ok(());
                }
                Err(why) if began.elapsed() > START => bail!("the aggregator does not answer: {why:#}\n{}", self.log()),
                Err(_) => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// A join token for a host of this name.
    ///
    /// # Errors
    /// The aggregator says no.
    pub async fn token(&self, name: &str) -> Result<String> {
        let made = self.api.post("/join-tokens", &json!({"name": name})).await?;
        Ok(made["token"].as_str().context("the token")?.to_owned())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Aggregator {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs a program to its end and gives its output.
///
/// # Errors
/// It can't be run, or fails.
pub fn run(command: &mut Command) -> Result<String> {
    let what = format!("{command:?}");
    let ended = command.output().with_context(|| what.clone())?;
    ensure!(ended.status.success(), "{what}: {}\n{}", ended.status, String::from_utf8_lossy(&ended.stderr).trim_end());
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}
