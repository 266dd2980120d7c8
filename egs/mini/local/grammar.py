"""Sentences from a small grammar (commands, dates, numbers), with the same meaning in English, Mandarin and Spanish."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Meaning(NamedTuple):
    """One meaning, written in the three languages."""

    en: str
    zh: str
    es: str


VERBS = [
    Meaning("turn on", "打开", "enciende"),
    Meaning("turn off", "关闭", "apaga"),
    Meaning("check", "检查", "revisa"),
    Meaning("clean", "清洁", "limpia"),
    Meaning("move", "移动", "mueve"),
    Meaning("repair", "修理", "repara"),
]
OBJECTS = [
    Meaning("light", "灯", "la luz"),
    Meaning("fan", "风扇", "el ventilador"),
    Meaning("radio", "收音机", "la radio"),
    Meaning("television", "电视", "el televisor"),
    Meaning("heater", "暖气", "la estufa"),
    Meaning("camera", "相机", "la cámara"),
    Meaning("computer", "电脑", "el ordenador"),
    Meaning("clock", "时钟", "el reloj"),
]
ROOMS = [
    Meaning("kitchen", "厨房", "la cocina"),
    Meaning("bedroom", "卧室", "el dormitorio"),
    Meaning("bathroom", "浴室", "el baño"),
    Meaning("garden", "花园", "el jardín"),
    Meaning("office", "办公室", "la oficina"),
    Meaning("garage", "车库", "el garaje"),
    Meaning("school", "学校", "la escuela"),
]
DAYS = [
    Meaning("monday", "星期一", "lunes"),
    Meaning("tuesday", "星期二", "martes"),
    Meaning("wednesday", "星期三", "miércoles"),
    Meaning("thursday", "星期四", "jueves"),
    Meaning("friday", "星期五", "viernes"),
    Meaning("saturday", "星期六", "sábado"),
    Meaning("sunday", "星期天", "domingo"),
]
MONTHS = [
    Meaning("january", "一月", "enero"),
    Meaning("february", "二月", "febrero"),
    Meaning("march", "三月", "marzo"),
    Meaning("april", "四月", "abril"),
    Meaning("may", "五月", "mayo"),
    Meaning("june", "六月", "junio"),
    Meaning("july", "七月", "julio"),
    Meaning("august", "八月", "agosto"),
    Meaning("september", "九月", "septiembre"),
    Meaning("october", "十月", "octubre"),
    Meaning("november", "十一月", "noviembre"),
    Meaning("december", "十二月", "diciembre"),
]
GOODS = [
    Meaning("apples", "苹果", "manzanas"),
    Meaning("books", "书", "libros"),
    Meaning("cups", "杯子", "tazas"),
    Meaning("chairs", "椅子", "sillas"),
    Meaning("flowers", "花", "flores"),
    Meaning("eggs", "鸡蛋", "huevos"),
]
GETS = [Meaning("buy", "买", "compra"), Meaning("bring", "拿来", "trae"), Meaning("sell", "卖", "vende")]

# fmt: off
EN_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]
EN_TENS = ["", "", "twenty", "thirty", "forty", "fifty"]
ZH_DIGITS = "零一二三四五六七八九"
ES_ONES = [
    "cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve", "diez", "once", "doce", "trece",
    "catorce", "quince", "dieciséis", "diecisiete", "dieciocho", "diecinueve", "veinte", "veintiuno", "veintidós",
    "veintitrés", "veinticuatro", "veinticinco", "veintiséis", "veintisiete", "veintiocho", "veintinueve",
]
ES_TENS = ["", "", "", "treinta", "cuarenta", "cincuenta"]
# fmt: on


def number(value: int) -> Meaning:
    """Spell out a number from 0 to 59."""
    tens, ones = divmod(value, 10)
    en = EN_ONES[value] if value < 20 else EN_TENS[tens] + (f" {EN_ONES[ones]}" if ones else "")
    zh = (
        ZH_DIGITS[ones]
        if not tens
        else (ZH_DIGITS[tens] if tens > 1 else "") + "十" + (ZH_DIGITS[ones] if ones else "")
    )
    es = ES_ONES[value] if value < 30 else ES_TENS[tens] + (f" y {ES_ONES[ones]}" if ones else "")
    return Meaning(en, zh, es)


def command(rng: np.random.Generator) -> Meaning:
    """Draw a sentence such as "turn on the light in the kitchen"."""
    verb, thing, room = (_one_of(rng, words) for words in (VERBS, OBJECTS, ROOMS))
    return Meaning(
        f"{verb.en} the {thing.en} in the {room.en}",
        f"{verb.zh}{room.zh}的{thing.zh}",
        f"{verb.es} {thing.es} en {room.es}",
    )


def command_on_day(rng: np.random.Generator) -> Meaning:
    """Draw a sentence such as "on monday check the heater"."""
    day, verb, thing = (_one_of(rng, words) for words in (DAYS, VERBS, OBJECTS))
    return Meaning(
        f"on {day.en} {verb.en} the {thing.en}", f"{day.zh}{verb.zh}{thing.zh}", f"el {day.es} {verb.es} {thing.es}"
    )


def date(rng: np.random.Generator) -> Meaning:
    """Draw a sentence such as "monday march five"."""
    day, month, which = _one_of(rng, DAYS), _one_of(rng, MONTHS), number(int(rng.integers(1, 32)))
    return Meaning(
        f"{day.en} {month.en} {which.en}", f"{day.zh}{month.zh}{which.zh}号", f"{day.es} {which.es} de {month.es}"
    )


def meeting(rng: np.random.Generator) -> Meaning:
    """Draw a sentence such as "meet at seven thirty in the garage"."""
    hour, minute, room = number(int(rng.integers(2, 13))), number(int(rng.integers(10, 60))), _one_of(rng, ROOMS)
    return Meaning(
        f"meet at {hour.en} {minute.en} in the {room.en}",
        f"{hour.zh}点{minute.zh}分在{room.zh}见面",
        f"quedamos a las {hour.es} y {minute.es} en {room.es}",
    )


def shopping(rng: np.random.Generator) -> Meaning:
    """Draw a sentence such as "on friday buy twelve eggs"."""
    day, get, good, count = (
        _one_of(rng, DAYS),
        _one_of(rng, GETS),
        _one_of(rng, GOODS),
        number(int(rng.integers(3, 21))),
    )
    return Meaning(
        f"on {day.en} {get.en} {count.en} {good.en}",
        f"{day.zh}{get.zh}{count.zh}个{good.zh}",
        f"el {day.es} {get.es} {count.es} {good.es}",
    )


def temperature(rng: np.random.Generator) -> Meaning:
    """Draw a sentence such as "set the office to twenty nine degrees"."""
    room, degrees = _one_of(rng, ROOMS), number(int(rng.integers(10, 60)))
    return Meaning(
        f"set the {room.en} to {degrees.en} degrees",
        f"设定{room.zh}{degrees.zh}度",
        f"pon {room.es} a {degrees.es} grados",
    )


def telephone(rng: np.random.Generator) -> Meaning:
    """Draw a sentence such as "call four two seven one"."""
    digits = [number(int(digit)) for digit in rng.integers(0, 10, size=int(rng.integers(3, 5)))]
    return Meaning(
        f"call {' '.join(digit.en for digit in digits)}",
        f"拨打{''.join(digit.zh for digit in digits)}",
        f"llama al {' '.join(digit.es for digit in digits)}",
    )


KINDS: list[Callable[[np.random.Generator], Meaning]] = [
    command,
    command_on_day,
    date,
    meeting,
    shopping,
    temperature,
    telephone,
]


def draw(rng: np.random.Generator) -> Meaning:
    """Draw a random sentence."""
    return _one_of(rng, KINDS)(rng)


def _one_of(rng: np.random.Generator, items: list):
    return items[int(rng.integers(len(items)))]
