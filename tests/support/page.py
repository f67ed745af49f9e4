"""The page in a browser, as somebody who uses it sees and touches it."""

import base64

import numpy as np

from . import wait_for


class Page:
    """What is on the page at an address; downloads go to a folder."""

    def __init__(self, driver, url, folder):
        self.driver = driver
        self.url = url.rstrip("/")
        self.folder = folder

    def resize(self, width, height):
        """Make the window that large; a narrow one is a phone's."""
        self.is_touched = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self._command("Emulation.setDeviceMetricsOverride", **size, mobile=self.is_touched)
        self._command("Emulation.setTouchEmulationEnabled", enabled=self.is_touched)

    def open(self):
        self.driver.get(self.url)
        wait_for(lambda: self.options("model"))

    # What is done

    def add(self, *paths):
        self.driver.find_element("id", "file").send_keys("\n".join(map(str, paths)))

    def drop(self, arguments):
        """Drop something: arguments of DataTransferItemList.add, as JavaScript."""
        self.script(
            f"const dropped = new DataTransfer(); dropped.items.add({arguments});"
            "document.body.dispatchEvent("
            " new DragEvent('drop', {dataTransfer: dropped, bubbles: true, cancelable: true}))"
        )

    def click(self, selector):
        self.driver.find_element("css selector", selector).click()

    def select(self, name):
        entries = self.driver.find_elements("css selector", "#files button")
        next(each for each in entries if each.text.split("\n")[0] == name).click()

    def set(self, name, value):
        """Move a slider, or set a colour or a number."""
        self.script(
            "const x = document.getElementById(arguments[0]); x.value = arguments[1];"
            "x.dispatchEvent(new Event('input', {bubbles: true}))", name, value,
        )  # fmt: skip

    def choose(self, name, label):
        from selenium.webdriver.support.ui import Select

        Select(self.driver.find_element("id", name)).select_by_visible_text(label)

    def keys(self, text):
        self.driver.find_element("id", "frame").send_keys(text)

    def drag(self, name, right, down=0):
        """Drag an element from its middle, with the mouse or a finger."""
        from selenium.webdriver import ActionChains

        if self.is_touched:
            x, y = self._middle(name)
            self._touch("touchStart", (x, y))
            for share in np.linspace(0, 1, 6):
                self._touch("touchMove", (x + share * right, y + share * down))
            self._touch("touchEnd")
        else:
            element = self.driver.find_element("id", name)
            ActionChains(self.driver).drag_and_drop_by_offset(element, right, down).perform()

    def pinch(self, name, factor):
        """Move two fingers apart around the middle of an element."""
        x, y = self._middle(name)
        self._touch("touchStart", (x - 30, y))
        self._touch("touchStart", (x - 30, y), (x + 30, y))
        for reach in np.linspace(30, 30 * factor, 8):
            self._touch("touchMove", (x - reach, y), (x + reach, y))
        self._touch("touchEnd")

    def wheel(self, name, distance):
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

        origin = ScrollOrigin.from_element(self.driver.find_element("id", name))
        ActionChains(self.driver).scroll_from_origin(origin, 0, distance).perform()

    # What is there

    def wait_until_done(self):
        busy = ("waiting", "segmenting")
        wait_for(lambda: (all_of := self.list()) and not any(word in busy for _, word in all_of))

    def list(self):
        """The names of the photographs, and the word beside each."""
        entries = self.driver.find_elements("css selector", "#files button")
        return [
            tuple(self.script("return [...arguments[0].children].map(x => x.textContent)", entry))
            for entry in entries
        ]

    def text(self, name):
        return self.driver.find_element("id", name).text

    def value(self, name):
        return self.driver.find_element("id", name).get_attribute("value")

    def options(self, name):
        return [each.text for each in self.driver.find_elements("css selector", f"#{name} option")]

    def chosen(self, name):
        from selenium.webdriver.support.ui import Select

        return Select(self.driver.find_element("id", name)).first_selected_option.text

    def is_shown(self, name):
        return self.driver.find_element("id", name).is_displayed()

    def box(self, name):
        """Where an element is in the window."""
        code = "return document.getElementById(arguments[0]).getBoundingClientRect().toJSON()"
        return self.script(code, name)

    def canvas(self, name="vessels"):
        """What is drawn, (H, W, 4) uint8."""
        width, height, content = self.script(
            "const c = document.getElementById(arguments[0]);"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "let s = ''; for (let i = 0; i < d.length; i += 8192)"
            " s += String.fromCharCode(...d.subarray(i, i + 8192));"
            "return [c.width, c.height, btoa(s)]",
            name,
        )
        pixels = np.frombuffer(base64.b64decode(content), np.uint8)
        return pixels.reshape(height, width, 4)

    def download(self, file, name):
        """Press the button of a file; the content of what is downloaded under a name."""
        self.click(f"[data-file='{file}']")
        return self.downloaded(name)

    def downloaded(self, name):
        path = self.folder / name
        wait_for(lambda: path.exists() and path.stat().st_size, 180)  # measures compile code first
        content = path.read_bytes()
        path.unlink()
        return content

    def requests(self):
        """The addresses that the page has asked for."""
        code = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
        return self.script(code)

    def token(self):
        """Of the first result that the page has asked for."""
        return next(name for name in self.requests() if "/results/" in name).split("/")[-2]

    def script(self, code, *arguments):
        return self.driver.execute_script(code, *arguments)

    def _middle(self, name):
        box = self.box(name)
        return (box["left"] + box["right"]) / 2, (box["top"] + box["bottom"]) / 2

    def _touch(self, kind, *points):
        fingers = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        self._command("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)

    def _command(self, name, **parameters):
        self.driver.execute_cdp_cmd(name, parameters)
