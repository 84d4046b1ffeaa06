//! Mail over SMTP. STARTTLS is demanded where it is asked for: without it nothing is sent.

use lettre::message::header::{ContentType, Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use roost_aggregator_core::notify::{Digest, Mail, MailTls, Notifier};

use super::{Courier, PATIENCE, Undelivered, roots, time};

/// Machines that answer mails leave these alone (RFC 3834).
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

pub(super) async fn send(
    courier: &Courier,
    notifier: &Notifier,
    way: &Mail,
    digest: &Digest,
) -> Result<(), Undelivered> {
    let message = compose(courier, way, digest)?;
    let wrap = |error| Undelivered::Smtp(way.server.clone(), error);
    let (name, port) = way.server.rsplit_once(':').unwrap_or((&way.server, "25"));
    let name = name.trim_start_matches('[').trim_end_matches(']');
    let tls = match way.tls {
        MailTls::StartTls => Tls::Required(parameters(notifier, name).map_err(|error| error.unwrap_or_else(wrap))?),
        MailTls::Tls => Tls::Wrapper(parameters(notifier, name).map_err(|error| error.unwrap_or_else(wrap))?),
        MailTls::Plain => Tls::None,
    };
    let mut transport = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(name)
        .port(port.parse().unwrap_or(25))
        .timeout(Some(PATIENCE))
        .tls(tls);
    if let (Some(user), Some(secret)) = (&way.user, &notifier.secret) {
        transport = transport.credentials(Credentials::new(user.clone(), secret.0.clone()));
    }
    transport.build().send(message).await.map_err(wrap)?;
    Ok(())
}

/// `Err(Err(..))`: of the TLS settings.
fn parameters(
    notifier: &Notifier,
    name: &str,
) -> Result<TlsParameters, Result<Undelivered, lettre::transport::smtp::Error>> {
    let mut builder = TlsParameters::builder(name.to_owned()).certificate_store(CertificateStore::None);
    for root in roots(notifier).map_err(Ok)?.1 {
        builder = builder.add_root_certificate(Certificate::from_der(root.to_vec()).map_err(Err)?);
    }
    builder.build_rustls().map_err(Err)
}

fn compose(courier: &Courier, way: &Mail, digest: &Digest) -> Result<Message, Undelivered> {
    let mailbox = |text: &String, name: Option<&str>| {
        let address = text.parse::<Address>().map_err(|error| Undelivered::Address(text.clone(), error))?;
        Ok::<_, Undelivered>(Mailbox::new(name.map(str::to_owned), address))
    };
    let from = mailbox(&way.from, Some("Roost"))?;
    let domain = from.email.domain().to_owned();
    let mut message = Message::builder()
        .message_id(Some(format!("<{}@{domain}>", uuid::Uuid::new_v4())))
        .date_now()
        .from(from)
        .subject(digest.subject())
        .header(AutoSubmitted)
        .header(ContentType::TEXT_PLAIN);
    for to in &way.to {
        message = message.to(mailbox(to, None)?);
    }
    if let [item] = &digest.items[..] {
        // All that is said of one alarm is one thread.
        message = message.references(format!("<{}@{}.roost>", item.alarm.key.fingerprint(), courier.grid));
    }
    let text = digest.text(time).replace('\n', "\r\n");
    Ok(message.body(format!("{text}-- \r\nGrid {}, {}\r\n", courier.grid, courier.url))?)
}
