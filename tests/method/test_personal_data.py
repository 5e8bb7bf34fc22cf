"""Addresses of people and machines in texts."""

import time

import pytest

from humpback_ray.method.personal_data import without_personal_data


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to Ann.Lee+x@mail.example.org.", "Write to email@example.com."),
        ("<a_b@c-d.de>, mailto:e@f.co.uk", "<email@example.com>, mailto:email@example.com"),
        ("two: a@b.de,c@d.fr", "two: email@example.com,email@example.com"),
        ("my own email@example.com", "my own email@example.com"),
        ("Jörg.Müller@büro.de, É@x.fr", "email@example.com, email@example.com"),
        ("o'neil@x.ie, 'a@b.de'", "email@example.com, 'email@example.com'"),
        ("请写信给a@b.com谢谢", "请写信给email@example.com谢谢"),
        ("пишите на a@b.com, b@c.ru.", "пишите на email@example.com, email@example.com."),
        ("server 8.8.8.8:53 and http://93.184.215.14/x", "server 192.0.2.1:53 and "
         "http://192.0.2.1/x"),
        ("ends with 8.8.4.4.", "ends with 192.0.2.1."),
    ],
)  # fmt: skip
def test_address_is_replaced(text, expected):
    assert without_personal_data(text) == expected
    assert without_personal_data(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "localhost 127.0.0.1, home 192.168.0.1 and 10.1.2.3, any 0.0.0.0",  # nobody's
        "version 1.2.3, v8.8.8.8, 8.8.8.8.8, 300.8.8.8, 08.8.8.8",
        "@decorator, user@host, a @ b, 5@6.7, git@",
    ],
)
def test_text_that_is_no_address_of_anybody_stays(text):
    assert without_personal_data(text) == text


@pytest.mark.parametrize(
    "piece", ["a", "a.", "a@", "@a", "1.", "1.2.3.", "a-", "a@b.", "a'", "'", "a'b@"]
)
def test_time_grows_with_the_length_of_the_text(piece):
    begin = time.process_time()
    without_personal_data("x@y.org " + piece * 300_000)
    assert time.process_time() - begin < 5  # a quadratic search takes minutes
