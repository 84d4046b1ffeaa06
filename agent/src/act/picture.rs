//! Screens of guests as PNG, small enough to travel. What comes from QEMU is not trusted: sizes are checked first.

use roost_libvirt::Picture;
use roost_protocol::look::PICTURE;
use roost_protocol::operation::{Failure, FailureCode};

use super::failure;

/// Longest side of a screen in pixels; QEMU's own limit is 16,000.
const SIDE: usize = 16_384;
/// A large screen is made smaller by whole numbers up to this one.
const SMALLEST: usize = 16;
const RGB: usize = 3;

/// A picture of rows of red, green, blue.
struct Pixels<'a> {
    width: usize,
    height: usize,
    bytes: &'a [u8],
}

/// The picture as PNG of at most [`PICTURE`] bytes; a screen with more than fits is shown smaller.
pub(crate) fn png(picture: &Picture) -> Result<Vec<u8>, Failure> {
    if picture.mime == "image/png" && picture.bytes.len() <= PICTURE {
        return Ok(picture.bytes.clone());
    }
    let pixels = portable(&picture.bytes).ok_or_else(|| {
        let text = format!("the hypervisor's picture ({}, {} bytes) can't be read", picture.mime, picture.bytes.len());
        failure(FailureCode::Hypervisor, text)
    })?;
    let mut by = 1;
    while by <= SMALLEST {
        let made =
            encode(&pixels, by).map_err(|error| failure(FailureCode::Internal, format!("make a PNG: {error}")))?;
        if made.len() <= PICTURE {
            return Ok(made);
        }
        by *= 2;
    }
    Err(failure(FailureCode::Unsupported, "the screen is too large to be sent"))
}

/// A portable pixmap: `P6`, width, height, 255, one blank, rows.
fn portable(bytes: &[u8]) -> Option<Pixels<'_>> {
    let mut rest = bytes.strip_prefix(b"P6")?;
    let mut numbers = [0; 3];
    for number in &mut numbers {
        rest = rest.trim_ascii_start();
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        *number = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
        rest = &rest[digits..];
    }
    let [width, height, most] = numbers;
    let bytes = rest.get(1..)?;
    let fits = (1..=SIDE).contains(&width) && (1..=SIDE).contains(&height) && most == 255;
    (fits && bytes.len() == width * height * RGB).then_some(Pixels { width, height, bytes })
}

/// Every `by`-th pixel of every `by`-th row.
fn encode(pixels: &Pixels<'_>, by: usize) -> Result<Vec<u8>, png::EncodingError> {
    let (width, height) = (pixels.width.div_ceil(by), pixels.height.div_ceil(by));
    let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, side(width), side(height));
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    let mut writer = encoder.write_header()?;
    if by == 1 {
        writer.write_image_data(pixels.bytes)?;
    } else {
        let rows = pixels.bytes.chunks_exact(pixels.width * RGB).step_by(by);
        let kept: Vec<u8> = rows.flat_map(|row| row.chunks_exact(RGB).step_by(by).flatten().copied()).collect();
        writer.write_image_data(&kept)?;
    }
    writer.finish()?;
    Ok(out)
}

#[cfg(test)]
mod test {
    use super::*;

    fn pixmap(width: usize, height: usize, pixel: impl Fn(usize) -> u8) -> Picture {
        let mut bytes = format!("P6\n{width} {height}\n255\n").into_bytes();
        bytes.extend((0..width * height * RGB).map(pixel));
        Picture { mime: "image/x-portable-pixmap".into(), bytes }
    }

    fn decoded(png: &[u8]) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(std::io::Cursor::new(png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info.width, info.height, pixels)
    }

    #[test]
    fn a_screen_is_the_same_as_png_and_one_that_does_not_fit_is_smaller() {
        let screen = pixmap(640, 480, |at| u8::try_from(at % 251).unwrap());
        assert_eq!(decoded(&png(&screen).unwrap()), (640, 480, screen.bytes[15..].to_vec()));
        let mut state = 1u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .take(1_601 * 901 * RGB)
        .collect();
        let made = png(&pixmap(1_601, 901, |at| noise[at])).unwrap();
        let (width, height, pixels) = decoded(&made);
        assert!(made.len() <= PICTURE && (width, height) == (401, 226), "{} bytes, {width} x {height}", made.len());
        assert_eq!(pixels[..6], [noise[0], noise[1], noise[2], noise[12], noise[13], noise[14]]);
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let whole = pixmap(4, 4, |_| 0).bytes;
        let broken: [&[u8]; 6] = [
            b"",
            b"P6",
            b"P6 99999999999999999999 1 255 ",
            b"P6\n4 4\n65535\n",
            &whole[..whole.len() - 1],
            b"P6\n0 4\n255\n",
        ];
        for bytes in broken {
            let picture = Picture { mime: "image/x-portable-pixmap".into(), bytes: bytes.to_vec() };
            assert!(png(&picture).is_err(), "{bytes:?}");
        }
    }
}
